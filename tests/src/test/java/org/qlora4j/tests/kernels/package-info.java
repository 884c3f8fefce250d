// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Parity of every kernel pack with the reference pack, and every operator against fixtures made by
 * other libraries.
 */
@NullMarked
package org.qlora4j.tests.kernels;

import org.jspecify.annotations.NullMarked;
