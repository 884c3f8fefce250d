// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Files of weights: safetensors, Hugging Face model directories, PEFT adapters. All input is
 * checked before use.
 */
@NullMarked
package org.qlora4j.checkpoint;

import org.jspecify.annotations.NullMarked;
