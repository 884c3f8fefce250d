// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Files that are read and written: safetensors, model directories, adapters, configurations. */
@NullMarked
package org.qlora4j.tests.formats;

import org.jspecify.annotations.NullMarked;
