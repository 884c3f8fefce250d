// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rows with named fields from JSON Lines, CSV and TSV files, one at a time; a bad row is an event,
 * not an end.
 */
@NullMarked
package org.qlora4j.rows;

import org.jspecify.annotations.NullMarked;
