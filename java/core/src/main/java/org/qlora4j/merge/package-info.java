// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Adapters merged into the weights they were trained for. */
@NullMarked
package org.qlora4j.merge;

import org.jspecify.annotations.NullMarked;
