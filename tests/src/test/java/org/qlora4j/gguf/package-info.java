// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Tests of what is not public. */
@NullMarked
package org.qlora4j.gguf;

import org.jspecify.annotations.NullMarked;
