// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What studies share: a process of its own for each run, their configuration, statistics and
 * reports. A study is built from the public API, as a program outside of this project would be.
 */
@NullMarked
package org.qlora4j.study;

import org.jspecify.annotations.NullMarked;
