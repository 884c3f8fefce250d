// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * How positive a Korean text is: a linear classifier, its training, and what it is worth on reviews
 * it has not seen.
 */
@NullMarked
package org.qlora4j.sentiment;

import org.jspecify.annotations.NullMarked;
