// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What studies measure. */
@NullMarked
package org.qlora4j.tests.study;

import org.jspecify.annotations.NullMarked;
