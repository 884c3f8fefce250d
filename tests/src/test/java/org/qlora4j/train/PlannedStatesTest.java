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
    assertEquals(8 * 5000, f32.stateBytes(5000));
    PlannedStates eightBit = new PlannedStates(true, null);
    assertEquals(8 * 4095, eightBit.stateBytes(4095), "small tensors stay f32");
    assertEquals(2 * (4096 + 16 * 4), eightBit.stateBytes(4096));
    assertEquals(2 * (4097 + 17 * 4), eightBit.stateBytes(4097));
    assertEquals(8 * 100 + 2 * (8192 + 32 * 4), eightBit.bytes(List.of(100L, 8192L)));
  }

  @Test
  void pagedStatesAreBounded() {
    MemoryBudget bytes = MemoryBudget.ofBytes(1000);
    assertEquals(1000, new PlannedStates(false, bytes).bytes(List.of(1000L)));
    assertEquals(80, new PlannedStates(false, bytes).bytes(List.of(10L)));
    MemoryBudget quarter = MemoryBudget.ofShare(0.25);
    assertEquals(2000, new PlannedStates(false, quarter).bytes(List.of(1000L)));
    // Small tensors have f32 moments, which stay in memory beside the budget.
    assertEquals(
        8 * 100 + (8192 + 32 * 4) / 2,
        new PlannedStates(true, quarter).bytes(List.of(100L, 8192L)));
  }
}
