// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.MomentPages;
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

  /** Bytes in memory for all tensors, given by their elements: aligned as {@link MomentStates}. */
  long bytes(List<Long> elements) {
    if (!eightBit) {
      return bytes(Format.F32, elements, budget);
    }
    List<Long> small = elements.stream().filter(n -> n < AdamWOptimizer.SMALLEST_8BIT).toList();
    List<Long> large = elements.stream().filter(n -> n >= AdamWOptimizer.SMALLEST_8BIT).toList();
    return bytes(Format.F32, small, null) + bytes(Format.BLOCKWISE_8BIT, large, budget);
  }

  private static long bytes(Format format, List<Long> elements, @Nullable MemoryBudget budget) {
    if (elements.isEmpty()) {
      return 0;
    }
    long aligned =
        MomentPages.alignedElements(elements.stream().mapToLong(Long::longValue).toArray());
    long all = format.pageBytes(aligned);
    return budget == null ? all : budget.of(all);
  }
}
