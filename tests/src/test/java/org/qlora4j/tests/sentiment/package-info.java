// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The sentiment classifier. */
@NullMarked
package org.qlora4j.tests.sentiment;

import org.jspecify.annotations.NullMarked;
