// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The decoder: configuration, layers with explicit forward and backward, loading. */
@NullMarked
package org.qlora4j.model;

import org.jspecify.annotations.NullMarked;
