// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * Codes, maxima and dequantized values are the same bits in every pack: the format leaves no
 * freedom.
 */
class Quantization4BitParityTest extends ParityTest {
  private static final long SEED = 4101;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    for (WeightFormat format : List.of(WeightFormat.NF4, WeightFormat.FP4)) {
      for (DType type : List.of(DType.F32, DType.BF16, DType.F16)) {
        // 16449 = 257 blocks of 64 and one element: two nested blocks and a partial block.
        for (int n : new int[] {0, 1, 2, 31, 63, 64, 65, 127, 128, 129, 1000, 16449, 100_003}) {
          add(cases, format, type, n, 64, n % 2 == 0 ? 0 : 256, Values.NORMAL);
          add(cases, format, type, n, 64, n % 2 == 0 ? 256 : 0, Values.NORMAL);
        }
        for (int blockSize : new int[] {32, 128, 256, 4096}) {
          add(cases, format, type, 3 * blockSize + 7, blockSize, 256, Values.NORMAL);
        }
        for (Values values : List.of(Values.WIDE, Values.ZERO, Values.DENORMAL, Values.MIDPOINTS)) {
          add(cases, format, type, 1030, 64, 256, values);
        }
      }
    }
    return cases;
  }

  private enum Values {
    NORMAL,
    WIDE,
    ZERO,
    DENORMAL,
    MIDPOINTS
  }

  private static float[] values(Values kind, int n) {
    Randoms random = new Randoms(SEED + n);
    return switch (kind) {
      case NORMAL -> random.normal(n, 0.02);
      case WIDE -> random.wide(n, 8);
      case ZERO -> new float[n];
      case DENORMAL -> {
        float[] values = random.normal(n, 1);
        for (int i = 0; i < n; i++) {
          values[i] *= 0x1p-140f;
        }
        yield values;
      }
      // Multiples of 1/48 of the maximum hit thresholds and their neighbourhood often.
      case MIDPOINTS -> {
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
          values[i] = (i % 97 - 48) / 48f;
        }
        yield values;
      }
    };
  }

  private static void add(
      List<Case> cases,
      WeightFormat format,
      DType type,
      int n,
      int blockSize,
      int nested,
      Values kind) {
    String name =
        format
            + " "
            + type
            + " n="
            + n
            + " block="
            + blockSize
            + " nested="
            + nested
            + " "
            + kind
            + " seed="
            + SEED;
    cases.add(
        new Case(
            name,
            "quantize_4bit",
            n,
            (memory, outputs) -> {
              DeviceTensor input = memory.of(type, values(kind, n), n);
              long blocks = Quantization4Bit.blocks(n, blockSize);
              DeviceTensor packed = memory.empty(DType.U8, Quantization4Bit.packedBytes(n));
              DeviceTensor absmax = memory.empty(nested == 0 ? DType.F32 : DType.U8, blocks);
              DeviceTensor nestedAbsmax = null;
              DeviceTensor offset = null;
              if (nested != 0) {
                nestedAbsmax = memory.empty(DType.F32, Quantization4Bit.blocks(blocks, nested));
                offset = memory.zeros(DType.F32, 1);
              }
              Quantization4Bit.quantize(
                  memory.pack(),
                  format,
                  input,
                  blockSize,
                  nested,
                  packed,
                  absmax,
                  nestedAbsmax,
                  offset);
              outputs.addExact("packed", packed);
              outputs.addExact("absmax", absmax);
              if (nestedAbsmax != null && offset != null) {
                outputs.addExact("nestedAbsmax", nestedAbsmax);
                outputs.addExact("nestedOffset", offset);
              }
              if (n > 0) {
                dequantize(
                    memory,
                    outputs,
                    format,
                    n,
                    blockSize,
                    nested,
                    packed,
                    absmax,
                    nestedAbsmax,
                    offset);
              }
            }));
  }

  private static void dequantize(
      DeviceMemory memory,
      Outputs outputs,
      WeightFormat format,
      int n,
      int blockSize,
      int nested,
      DeviceTensor packed,
      DeviceTensor absmax,
      @Nullable DeviceTensor nestedAbsmax,
      @Nullable DeviceTensor offset) {
    float nestedOffset = offset == null ? 0 : offset.toFloats()[0];
    Weight weight =
        new Weight(
            format, DType.F32, blockSize, nested, nestedOffset, 1, n, packed, absmax, nestedAbsmax);
    for (DType type : List.of(DType.F32, DType.BF16, DType.F16)) {
      DeviceTensor output = memory.empty(type, n);
      Quantization4Bit.dequantize(memory.pack(), weight, output);
      outputs.add("dequantized", output, Tolerance.EXACT);
    }
  }
}
