// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

/**
 * What {@link KernelPack#profile} counted for one operator.
 *
 * @param operator name as in the ABI, for example {@code rms_norm_forward}
 * @param calls number of calls
 * @param nanoseconds time they took inside of the pack
 */
public record OperatorTime(String operator, long calls, long nanoseconds) {}
