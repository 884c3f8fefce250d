// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.bytedeco.javacpp.Pointer;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * What bounds an operator on a machine, measured with the instructions and the threads of a pack.
 */
public enum Limit {
  /** Bytes read from memory per second. */
  READ(qlora4j.Q4J_LIMIT_READ),
  /** Operations per second on f32; a multiply-add is two. */
  F32(qlora4j.Q4J_LIMIT_F32),
  /** Operations per second on bf16. */
  BF16(qlora4j.Q4J_LIMIT_BF16),
  /** Operations per second on 8-bit integers. */
  INT8(qlora4j.Q4J_LIMIT_INT8);

  private final int code;

  Limit(int code) {
    this.code = code;
  }

  /**
   * Measures {@link #F32}, {@link #BF16} or {@link #INT8}: one instruction in a loop, its operands
   * in registers. Some 20 milliseconds.
   *
   * @return operations per second of all threads
   * @throws UnsupportedOperationException where the pack measures nothing, or there is no such
   *     instruction
   */
  public double measure(KernelPack pack) {
    if (this == READ) {
      throw new IllegalArgumentException("reading needs memory to read");
    }
    return measure(pack, code, DeviceAddress.NULL, 0);
  }

  /**
   * Measures how fast all threads together read memory.
   *
   * @param memory what to read; several times the last-level cache, and written before, because
   *     memory that nobody wrote may not be there
   * @return bytes per second
   * @throws UnsupportedOperationException where the pack measures nothing
   */
  public static double read(KernelPack pack, DeviceBuffer memory) {
    return measure(pack, READ.code, memory.pointer(), memory.bytes());
  }

  private static double measure(KernelPack pack, int code, Pointer memory, long bytes) {
    double[] perSecond = new double[1];
    synchronized (pack.lock()) {
      Status.check(qlora4j.q4j_measure(pack.context(), code, memory, bytes, perSecond));
    }
    return perSecond[0];
  }
}
