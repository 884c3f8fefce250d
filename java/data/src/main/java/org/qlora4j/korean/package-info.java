// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Korean text: morphemes and nouns by Lucene's Nori, sentences. */
@NullMarked
package org.qlora4j.korean;

import org.jspecify.annotations.NullMarked;
