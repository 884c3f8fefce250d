// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** From a file of examples to micro-batches. */
@NullMarked
package org.qlora4j.tests.data;

import org.jspecify.annotations.NullMarked;
