// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import org.junit.jupiter.api.Test;

/** Bytes of optimizer states by how they are held. */
class PlannedStatesTest {

  @Test
  void statesByKind() {
    PlannedStates f32 = new PlannedStates(false, null);
    assertEquals(8 * 5120, f32.bytes(List.of(5000L)), "a whole number of 256 elements");
    PlannedStates eightBit = new PlannedStates(true, null);
    assertEquals(8 * 4096, eightBit.bytes(List.of(4095L)), "small tensors stay f32");
    // Two codes an element and two f32 scales a block, up to a multiple of 256 bytes.
    assertEquals(8448, eightBit.bytes(List.of(4096L)));
    assertEquals(8 * 256 + 16640, eightBit.bytes(List.of(100L, 8192L)));
  }

  @Test
  void pagedStatesAreBounded() {
    MemoryBudget bytes = MemoryBudget.ofBytes(4000);
    assertEquals(4000, new PlannedStates(false, bytes).bytes(List.of(1000L)));
    assertEquals(2048, new PlannedStates(false, bytes).bytes(List.of(10L)));
    MemoryBudget quarter = MemoryBudget.ofShare(0.25);
    assertEquals(2048, new PlannedStates(false, quarter).bytes(List.of(1000L)));
    // Small tensors have f32 moments, which stay in memory beside the budget.
    assertEquals(8 * 256 + 16640 / 4, new PlannedStates(true, quarter).bytes(List.of(100L, 8192L)));
  }
}
