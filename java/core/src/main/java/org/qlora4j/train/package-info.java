// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The training loop, its optimizer, schedules and configuration. */
@NullMarked
package org.qlora4j.train;

import org.jspecify.annotations.NullMarked;
