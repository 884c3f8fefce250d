// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Adapters merged into weights. */
@NullMarked
package org.qlora4j.tests.merge;

import org.jspecify.annotations.NullMarked;
