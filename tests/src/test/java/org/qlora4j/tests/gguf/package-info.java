// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** GGUF files. */
@NullMarked
package org.qlora4j.tests.gguf;

import org.jspecify.annotations.NullMarked;
