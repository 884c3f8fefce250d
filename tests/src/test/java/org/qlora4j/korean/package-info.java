// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Sentences and morphemes. */
@NullMarked
package org.qlora4j.korean;

import org.jspecify.annotations.NullMarked;
