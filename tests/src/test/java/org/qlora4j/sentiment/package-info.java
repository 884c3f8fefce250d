// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rules of cleaning and duplicates, one by one. */
@NullMarked
package org.qlora4j.sentiment;

import org.jspecify.annotations.NullMarked;
