// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Tests of the model's layers, in their package because a layer's backward is not public. */
@NullMarked
package org.qlora4j.model;

import org.jspecify.annotations.NullMarked;
