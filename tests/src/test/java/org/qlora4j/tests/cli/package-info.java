// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The command line as a user sees it. */
@NullMarked
package org.qlora4j.tests.cli;

import org.jspecify.annotations.NullMarked;
