// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What the tests share: fixtures, packs, guarded device memory, tolerances and the parity runner.
 */
@NullMarked
package org.qlora4j.tests.support;

import org.jspecify.annotations.NullMarked;
