// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DeviceTensor;

/**
 * One operator on its operands, ready to be called again and again.
 *
 * @param direction forward, backward, or both
 * @param m rows
 * @param n columns, or 0
 * @param k a third number, or 0
 * @param operations of a call where arithmetic may bound it; else 0
 * @param bytes that a call must read and write
 * @param ours the call
 * @param results what it writes
 * @param relative tolerance of a result's element, by its magnitude
 * @param absolute tolerance of a result's element, by the largest magnitude of that result
 * @param rivalName what libtorch does instead, or null
 * @param rival libtorch's call, or null
 */
record OperatorCall(
    String direction,
    long m,
    long n,
    long k,
    double operations,
    double bytes,
    Runnable ours,
    List<DeviceTensor> results,
    double relative,
    double absolute,
    @Nullable String rivalName,
    @Nullable Runnable rival) {}
