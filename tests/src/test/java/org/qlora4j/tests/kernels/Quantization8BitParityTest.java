// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Quantization8Bit;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/** Blockwise 8-bit codes are the same bits in every pack. */
class Quantization8BitParityTest extends ParityTest {
  private static final long SEED = 4102;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    for (Quantization8Bit.Map map : Quantization8Bit.Map.values()) {
      for (int blockSize : new int[] {64, 256, 4096}) {
        for (int n :
            new int[] {0, 1, blockSize - 1, blockSize, blockSize + 1, 3 * blockSize + 17}) {
          add(cases, map, blockSize, n, 0);
          add(cases, map, blockSize, n, 12);
        }
      }
      add(cases, map, 256, 200_003, 6);
    }
    return cases;
  }

  private static void add(
      List<Case> cases, Quantization8Bit.Map map, int blockSize, int n, int decades) {
    cases.add(
        new Case(
            map + " n=" + n + " block=" + blockSize + " decades=" + decades + " seed=" + SEED,
            "quantize_8bit_blockwise",
            n,
            (memory, outputs) -> {
              Randoms random = new Randoms(SEED + n);
              float[] values = decades == 0 ? random.normal(n, 1) : random.wide(n, decades);
              if (map == Quantization8Bit.Map.DYNAMIC_UNSIGNED) {
                for (int i = 0; i < n; i++) {
                  values[i] = Math.abs(values[i]);
                }
              }
              DeviceTensor input = memory.of(DType.F32, values, n);
              DeviceTensor codes = memory.empty(DType.U8, n);
              DeviceTensor absmax = memory.empty(DType.F32, Quantization4Bit.blocks(n, blockSize));
              DeviceTensor output = memory.empty(DType.F32, n);
              Quantization8Bit.quantize(memory.pack(), map, blockSize, input, codes, absmax);
              Quantization8Bit.dequantize(memory.pack(), map, blockSize, codes, absmax, output);
              outputs.addExact("codes", codes);
              outputs.addExact("absmax", absmax);
              outputs.add("dequantized", output, Tolerance.EXACT);
            }));
  }
}
