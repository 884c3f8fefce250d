// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/** Row-wise FP8 codes and scales are the same bits in every pack. */
class QuantizationFp8ParityTest extends ParityTest {
  private static final long SEED = 4104;
  private static final List<DType> TYPES = List.of(DType.F32, DType.BF16, DType.F16);

  /** What the rows of a case are like. */
  private enum Rows {
    NORMAL,
    /** Values over twelve decades: most codes are subnormal or 0. */
    WIDE,
    /** In turn: zeros, a NaN, an infinity, a subnormal scale, a scale of 0, huge. */
    EXTREME
  }

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] shapes = {
      {0, 8},
      {1, 1},
      {1, 7},
      {3, 15},
      {4, 16},
      {5, 17},
      {7, 63},
      {8, 64},
      {9, 65},
      {33, 1000},
      {2, 2049},
      {2, 8200}
    };
    for (DType type : TYPES) {
      for (Rows rows : Rows.values()) {
        for (int[] shape : shapes) {
          cases.add(
              new Case(
                  type + " " + rows + " " + Arrays.toString(shape) + " seed=" + SEED,
                  "quantize_fp8_rowwise",
                  (long) shape[0] * shape[1],
                  (memory, outputs) -> {
                    float[] values = values(rows, shape[0], shape[1]);
                    DeviceTensor input = memory.of(type, values, shape[0], shape[1]);
                    DeviceTensor codes = memory.empty(DType.F8_E4M3, shape[0], shape[1]);
                    DeviceTensor scale = memory.empty(DType.F32, shape[0]);
                    QuantizationFp8.quantize(memory.pack(), input, codes, scale);
                    outputs.addExact("codes", codes);
                    outputs.add("rowScale", scale, Tolerance.EXACT);
                    for (DType target : TYPES) {
                      DeviceTensor output = memory.empty(target, shape[0], shape[1]);
                      QuantizationFp8.dequantize(memory.pack(), codes, scale, output);
                      outputs.add("dequantized", output, Tolerance.EXACT);
                    }
                  }));
        }
      }
    }
    cases.add(
        new Case(
            "every code",
            "dequantize_fp8_rowwise",
            768,
            (memory, outputs) -> {
              byte[] bytes = new byte[768];
              for (int i = 0; i < bytes.length; i++) {
                bytes[i] = (byte) i;
              }
              DeviceTensor codes = memory.of(DType.F8_E4M3, bytes, 3, 256);
              DeviceTensor scale = memory.of(DType.F32, new float[] {1, 0.0123f, -3e-39f}, 3);
              for (DType target : TYPES) {
                DeviceTensor output = memory.empty(target, 3, 256);
                QuantizationFp8.dequantize(memory.pack(), codes, scale, output);
                outputs.add("dequantized", output, Tolerance.EXACT);
              }
            }));
    return cases;
  }

  private static float[] values(Rows kind, int rows, int cols) {
    Randoms random = new Randoms(SEED + cols);
    float[] values =
        kind == Rows.WIDE
            ? random.wide((long) rows * cols, 12)
            : random.normal((long) rows * cols, 1);
    if (kind == Rows.EXTREME) {
      for (int r = 0; r < rows; r++) {
        int from = r * cols;
        int to = from + cols;
        switch (r % 6) {
          case 0 -> Arrays.fill(values, from, to, 0);
          case 1 -> values[from + cols / 2] = -Float.NaN;
          case 2 -> values[to - 1] = Float.NEGATIVE_INFINITY;
          case 3 -> scale(values, from, to, 0x1p-133f);
          case 4 -> scale(values, from, to, 0x1p-143f);
          default -> scale(values, from, to, 0x1p120f);
        }
      }
    }
    return values;
  }

  private static void scale(float[] values, int from, int to, float factor) {
    for (int i = from; i < to; i++) {
      values[i] *= factor;
    }
  }
}
