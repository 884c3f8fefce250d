// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The decoder against fixtures and against libtorch autograd. */
@NullMarked
package org.qlora4j.tests.model;

import org.jspecify.annotations.NullMarked;
