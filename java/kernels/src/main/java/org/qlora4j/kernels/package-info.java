// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The Java side of the kernel ABI: opens kernel packs, owns their device memory and calls their
 * operators.
 *
 * <p>Nothing here knows libtorch. A {@link org.qlora4j.kernels.KernelPack} is an opened shared
 * library with one context; a {@link org.qlora4j.kernels.DeviceBuffer} is memory of its device; a
 * {@link org.qlora4j.kernels.DeviceTensor} is a typed, row-major view of such memory. Every
 * operator is a final class of static methods that take the pack first, check the cheap arguments,
 * and call one function of the ABI.
 */
@NullMarked
package org.qlora4j.kernels;

import org.jspecify.annotations.NullMarked;
