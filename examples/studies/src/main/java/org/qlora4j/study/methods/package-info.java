// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Ways to tune a model compared: memory, time and held-out loss of each. Start at {@link
 * org.qlora4j.study.methods.MethodStudy}.
 */
@NullMarked
package org.qlora4j.study.methods;

import org.jspecify.annotations.NullMarked;
