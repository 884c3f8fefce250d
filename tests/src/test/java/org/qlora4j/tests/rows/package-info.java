// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Reading rows. */
@NullMarked
package org.qlora4j.tests.rows;

import org.jspecify.annotations.NullMarked;
