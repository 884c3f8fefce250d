// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * What tuning does to the texts a model writes: the same prompts before and after, measured.
 *
 * <p>{@link org.qlora4j.study.generation.GenerationStudy} runs the study.
 */
@NullMarked
package org.qlora4j.study.generation;

import org.jspecify.annotations.NullMarked;
