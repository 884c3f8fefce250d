// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Tests of parts of training that are not public. */
@NullMarked
package org.qlora4j.train;

import org.jspecify.annotations.NullMarked;
