// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The JavaCPP preset that turns the kernel ABI headers into {@code org.qlora4j.kernels.abi}. */
@NullMarked
package org.qlora4j.kernels.presets;

import org.jspecify.annotations.NullMarked;
