// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Text generation with a key/value cache. */
@NullMarked
package org.qlora4j.generate;

import org.jspecify.annotations.NullMarked;
