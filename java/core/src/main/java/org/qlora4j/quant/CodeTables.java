// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import java.util.Arrays;
import org.qlora4j.kernels.WeightFormat;

/**
 * The values that bitsandbytes' codes stand for, as its checkpoints store them beside the codes
 * ({@code quant_map}, {@code nested_quant_map}). The packs decode with the same values.
 */
public final class CodeTables {
  private static final int[] NF4_BITS = {
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
    0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000
  };

  /** FP4's magnitudes in twelfths; bit 3 of a code is the sign. */
  private static final double[] FP4_TWELFTHS = {0, 0.0625, 8, 12, 4, 6, 2, 3};

  private static final int EXPONENTS = 7;

  private CodeTables() {}

  /** The 16 values of a 4-bit format, by code; both zeros of FP4 are positive. */
  public static float[] of(WeightFormat format) {
    float[] values = new float[16];
    for (int code = 0; code < 16; code++) {
      values[code] =
          switch (format) {
            case NF4 -> Float.intBitsToFloat(NF4_BITS[code]);
            case FP4 -> {
              float magnitude = (float) (FP4_TWELFTHS[code & 7] / 12);
              yield code <= 8 ? magnitude : -magnitude;
            }
            default -> throw new IllegalArgumentException(format + " has no table of 16 codes");
          };
    }
    return values;
  }

  /**
   * The 256 values of the signed dynamic map, by code: for each decade 10^(i - 6), i from 0 to 6,
   * the midpoints of 2^i equal intervals of [0.1, 1], with both signs; 0 and 1; sorted. Computed in
   * f32 as bitsandbytes' {@code create_dynamic_map} does.
   */
  public static float[] dynamicSigned() {
    float[] values = new float[256];
    int count = 0;
    for (int i = 0; i < EXPONENTS; i++) {
      int intervals = 1 << i;
      float scale = (float) Math.pow(10, i - (EXPONENTS - 1));
      for (int k = 0; k < intervals; k++) {
        float value = scale * ((boundary(k, intervals) + boundary(k + 1, intervals)) / 2f);
        values[count++] = value;
        values[count++] = -value;
      }
    }
    values[count++] = 0f;
    values[count] = 1f;
    Arrays.sort(values);
    return values;
  }

  /**
   * Point k of linspace(0.1, 1): counted from the nearer end and rounded once, as libtorch does.
   */
  private static float boundary(int k, int intervals) {
    float step = (1f - 0.1f) / intervals;
    return k < (intervals + 1) / 2
        ? Math.fma(step, (float) k, 0.1f)
        : Math.fma(-step, (float) (intervals - k), 1f);
  }
}
