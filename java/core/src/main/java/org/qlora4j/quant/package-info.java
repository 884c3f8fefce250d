// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Quantized weights: how they are made, held, and described. */
@NullMarked
package org.qlora4j.quant;

import org.jspecify.annotations.NullMarked;
