// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.AdamW8Bit;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * AdamW with 8-bit moments. Every operation is f32 and rounded as the ABI prescribes, so codes,
 * absmax and parameters are the same bits in every pack.
 */
class AdamW8BitParityTest extends ParityTest {
  private static final long SEED = 4195;
  private static final AdamW.Options OPTIONS = new AdamW.Options(2e-3, 0.9, 0.999, 1e-8);

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] lists = {
      {}, {1}, {0, 5}, {7, 8, 9}, {15, 16, 17, 255, 256, 257}, {4096, 1, 4095, 0, 70_001}
    };
    for (int[] lengths : lists) {
      add(cases, lengths, 256, false);
    }
    for (int blockSize : new int[] {32, 64, 128, 512, 4096}) {
      int[] around = {blockSize - 1, blockSize, blockSize + 1, 3 * blockSize + 17};
      add(cases, around, blockSize, false);
      add(cases, around, blockSize, true);
    }
    add(cases, new int[] {3, 1000, 2048}, 256, true);
    // More than one launch of the CUDA pack takes.
    add(cases, IntStream.range(0, 700).map(i -> i * 37 % 50).toArray(), 256, false);
    return cases;
  }

  private static void add(List<Case> cases, int[] lengths, int blockSize, boolean special) {
    String list = lengths.length > 8 ? lengths.length + " tensors" : Arrays.toString(lengths);
    cases.add(
        new Case(
            list + " block=" + blockSize + " special=" + special + " seed=" + SEED,
            "adamw_8bit",
            Arrays.stream(lengths).sum(),
            (memory, outputs) -> steps(lengths, blockSize, special, memory, outputs)));
  }

  private static void steps(
      int[] lengths, int blockSize, boolean special, DeviceMemory memory, Outputs outputs) {
    Randoms random = new Randoms(SEED);
    List<AdamW8Bit.Slot> slots = new ArrayList<>();
    for (int i = 0; i < lengths.length; i++) {
      int n = lengths[i];
      slots.add(
          new AdamW8Bit.Slot(
              memory.of(DType.F32, random.normal(n, 0.1), n),
              memory.empty(DType.F32, n),
              moment(memory, n, blockSize),
              moment(memory, n, blockSize),
              i % 2 == 0 ? 0.01f : 0));
    }
    for (int step = 1; step <= 3; step++) {
      for (AdamW8Bit.Slot slot : slots) {
        float[] values = random.wide(slot.gradient().elements(), 4);
        if (special && values.length > 2 && step == 2) {
          values[0] = Float.NaN;
          values[values.length / 2] = Float.POSITIVE_INFINITY;
          // Its square is beyond f32.
          values[values.length - 1] = -1e25f;
        }
        slot.gradient().copyFrom(values);
      }
      AdamW8Bit.step(memory.pack(), OPTIONS, blockSize, step, 0.5f, slots);
    }
    for (AdamW8Bit.Slot slot : slots) {
      outputs.add("parameter", slot.parameter(), Tolerance.EXACT);
      for (AdamW8Bit.Moment moment : List.of(slot.firstMoment(), slot.secondMoment())) {
        outputs.addExact("codes", moment.codes());
        outputs.addExact("absmax", moment.absmax());
      }
    }
  }

  /** Before the first step: absmax 0, codes of any value. */
  private static AdamW8Bit.Moment moment(DeviceMemory memory, int n, int blockSize) {
    return new AdamW8Bit.Moment(
        memory.empty(DType.U8, n), memory.zeros(DType.F32, Quantization4Bit.blocks(n, blockSize)));
  }

  @Test
  void wrongShapesAreRefusedBeforeTheCall() {
    try (DeviceMemory memory = new DeviceMemory(Packs.reference())) {
      DeviceTensor parameter = memory.zeros(DType.F32, 300);
      AdamW8Bit.Moment moment = moment(memory, 300, 256);
      AdamW8Bit.Slot slot = new AdamW8Bit.Slot(parameter, parameter, moment, moment, 0);
      // 300 elements are two blocks of 256 and three of 128.
      assertThrows(
          IllegalArgumentException.class,
          () -> AdamW8Bit.step(memory.pack(), OPTIONS, 128, 1, 1, List.of(slot)));
      assertThrows(
          IllegalArgumentException.class,
          () -> AdamW8Bit.step(memory.pack(), OPTIONS, 100, 1, 1, List.of(slot)));
      assertThrows(
          IllegalArgumentException.class,
          () -> AdamW8Bit.step(memory.pack(), OPTIONS, 256, 0, 1, List.of(slot)));
      AdamW8Bit.Moment shorter = moment(memory, 299, 256);
      assertThrows(
          IllegalArgumentException.class,
          () -> new AdamW8Bit.Slot(parameter, parameter, moment, shorter, 0));
    }
  }
}
