// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Low-rank adapters: their configuration, tensors and initialisation. */
@NullMarked
package org.qlora4j.lora;

import org.jspecify.annotations.NullMarked;
