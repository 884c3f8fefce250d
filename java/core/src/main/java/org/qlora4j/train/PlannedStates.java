// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Bytes of AdamW's states in memory, by how they are held; before there are any.
 *
 * @param eightBit whether the two moments of a large tensor are 8-bit codes with an f32 scale for
 *     256 of them each, as the operator adamw_8bit has them
 * @param budget what of paged states is in memory; null where all of them are
 */
record PlannedStates(boolean eightBit, @Nullable MemoryBudget budget) {

  /** Tensors with fewer elements keep f32 moments, as in bitsandbytes, and these are not paged. */
  private static final long SMALLEST_8BIT = 4096;

  private static final long BLOCK = 256;

  /** What a configuration's optimizer holds. */
  static PlannedStates of(TrainConfig.Optimizer optimizer) {
    return new PlannedStates(
        optimizer.optim().eightBit(), optimizer.optim().paged() ? optimizer.memoryBudget() : null);
  }

  /** Bytes of both moments of one tensor. */
  long stateBytes(long elements) {
    if (!inEightBits(elements)) {
      return 2 * elements * Float.BYTES;
    }
    return 2 * (elements + (elements + BLOCK - 1) / BLOCK * Float.BYTES);
  }

  /** Bytes in memory for all tensors, given by their elements. */
  long bytes(List<Long> elements) {
    long stays = 0;
    long paged = 0;
    for (long count : elements) {
      if (budget != null && (!eightBit || inEightBits(count))) {
        paged += stateBytes(count);
      } else {
        stays += stateBytes(count);
      }
    }
    return stays + (budget == null || paged == 0 ? 0 : budget.of(paged));
  }

  private boolean inEightBits(long elements) {
    return eightBit && elements >= SMALLEST_8BIT;
  }
}
