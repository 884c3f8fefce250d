// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Files that are not trusted, bent at random: taken or refused, never more. */
@NullMarked
package org.qlora4j.tests.fuzz;

import org.jspecify.annotations.NullMarked;
