// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Reports: what they hold, and what a browser makes of them. */
@NullMarked
package org.qlora4j.tests.report;

import org.jspecify.annotations.NullMarked;
