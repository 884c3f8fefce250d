// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Training against fixtures, and whole runs: resumed, killed, refused. */
@NullMarked
package org.qlora4j.tests.train;

import org.jspecify.annotations.NullMarked;
