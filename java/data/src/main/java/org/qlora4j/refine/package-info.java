// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Collected posts become training examples: cleaned, filtered, without duplicates, judged, and
 * every drop accounted for.
 */
@NullMarked
package org.qlora4j.refine;

import org.jspecify.annotations.NullMarked;
