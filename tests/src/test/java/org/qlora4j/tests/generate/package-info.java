// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Text generation with real models. */
@NullMarked
package org.qlora4j.tests.generate;

import org.jspecify.annotations.NullMarked;
