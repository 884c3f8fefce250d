// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What the sentiment classifier is made of, and its files, part by part. */
@NullMarked
package org.qlora4j.sentiment;

import org.jspecify.annotations.NullMarked;
