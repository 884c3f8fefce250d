// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Measurements, run only when asked for. */
@NullMarked
package org.qlora4j.tests.benchmark;

import org.jspecify.annotations.NullMarked;
