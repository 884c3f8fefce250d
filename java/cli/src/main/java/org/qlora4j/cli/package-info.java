// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The command line: arguments in, text and exit codes out. Everything it does is a call into the
 * core.
 */
@NullMarked
package org.qlora4j.cli;

import org.jspecify.annotations.NullMarked;
