// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/** Row-wise INT8 codes are the same bits in every pack. */
class QuantizationInt8ParityTest extends ParityTest {
  private static final long SEED = 4103;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    for (DType type : List.of(DType.F32, DType.BF16, DType.F16)) {
      for (float threshold : new float[] {0, 3}) {
        for (int[] shape :
            new int[][] {
              {0, 8},
              {1, 1},
              {1, 7},
              {3, 15},
              {4, 16},
              {5, 17},
              {7, 63},
              {8, 64},
              {9, 65},
              {33, 1000}
            }) {
          add(cases, type, threshold, shape[0], shape[1]);
        }
      }
    }
    return cases;
  }

  private static void add(List<Case> cases, DType type, float threshold, int rows, int cols) {
    cases.add(
        new Case(
            type + " [" + rows + ", " + cols + "] threshold=" + threshold + " seed=" + SEED,
            "quantize_int8_rowwise",
            (long) rows * cols,
            (memory, outputs) -> {
              float[] values = new Randoms(SEED + cols).normal((long) rows * cols, 1);
              if (rows > 2) {
                // A row of zeros has no scale.
                java.util.Arrays.fill(values, cols, 2 * cols, 0);
              }
              DeviceTensor input = memory.of(type, values, rows, cols);
              DeviceTensor codes = memory.empty(DType.I8, rows, cols);
              DeviceTensor absmax = memory.empty(DType.F32, rows);
              DeviceTensor outliers = memory.zeros(DType.U8, cols);
              QuantizationInt8.quantize(memory.pack(), input, threshold, codes, absmax, outliers);
              outputs.addExact("codes", codes);
              outputs.addExact("rowAbsmax", absmax);
              if (threshold > 0) {
                outputs.addExact("outlierCols", outliers);
              }
              for (DType target : List.of(DType.F32, DType.BF16, DType.F16)) {
                DeviceTensor output = memory.empty(target, rows, cols);
                QuantizationInt8.dequantize(memory.pack(), codes, absmax, output);
                outputs.add("dequantized", output, Tolerance.EXACT);
              }
            }));
  }
}
