// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.MomentPages.Format;

/**
 * Bytes of AdamW's states in memory, by how they are held; before there are any.
 *
 * @param eightBit whether the two moments of a large tensor are 8-bit codes with an f32 scale for
 *     256 of them each, as the operator adamw_8bit has them
 * @param budget what of paged states is in memory; null where all of them are
 */
record PlannedStates(boolean eightBit, @Nullable MemoryBudget budget) {

  /** What a configuration's optimizer holds. */
  static PlannedStates of(TrainConfig.Optimizer optimizer) {
    return new PlannedStates(
        optimizer.optim().eightBit(), optimizer.optim().paged() ? optimizer.memoryBudget() : null);
  }

  /** Bytes of both moments of one tensor. */
  long stateBytes(long elements) {
    Format format = inEightBits(elements) ? Format.BLOCKWISE_8BIT : Format.F32;
    return format.parts().stream().mapToLong(part -> part.bytes(elements)).sum();
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
    return eightBit && elements >= AdamWOptimizer.SMALLEST_8BIT;
  }
}
