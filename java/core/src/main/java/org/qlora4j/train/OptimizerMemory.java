// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.List;

/**
 * Bytes of AdamW's states, by how they are held.
 *
 * @param eightBit whether the two moments of a large tensor are 8-bit codes with an f32 scale for
 *     256 of them each, as the operator adamw_8bit has them
 * @param residentBytes most memory for states that are paged; 0 where all stay in memory
 */
record OptimizerMemory(boolean eightBit, long residentBytes) {

  /** Tensors with fewer elements keep f32 moments, as in bitsandbytes. */
  private static final long SMALLEST_8BIT = 4096;

  private static final long BLOCK = 256;

  /** What a configuration's optimizer holds. */
  static OptimizerMemory of(TrainConfig.Optimizer optimizer) {
    return new OptimizerMemory(false, 0);
  }

  /** Bytes of both moments of one tensor. */
  long stateBytes(long elements) {
    if (!eightBit || elements < SMALLEST_8BIT) {
      return 2 * elements * Float.BYTES;
    }
    return 2 * (elements + (elements + BLOCK - 1) / BLOCK * Float.BYTES);
  }

  /** Bytes in memory for all tensors, given by their elements. */
  long bytes(List<Long> elements) {
    long all = elements.stream().mapToLong(this::stateBytes).sum();
    return residentBytes > 0 ? Math.min(residentBytes, all) : all;
  }
}
