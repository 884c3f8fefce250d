// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Device memory of a training step: the activation arena, and the bridge to libtorch's tensors. */
@NullMarked
package org.qlora4j.tensor;

import org.jspecify.annotations.NullMarked;
