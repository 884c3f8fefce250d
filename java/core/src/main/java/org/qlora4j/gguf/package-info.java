// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** GGUF, the file format of llama.cpp: read, written, and made from a model directory. */
@NullMarked
package org.qlora4j.gguf;

import org.jspecify.annotations.NullMarked;
