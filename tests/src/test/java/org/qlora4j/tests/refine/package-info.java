// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Whole refinements. */
@NullMarked
package org.qlora4j.tests.refine;

import org.jspecify.annotations.NullMarked;
