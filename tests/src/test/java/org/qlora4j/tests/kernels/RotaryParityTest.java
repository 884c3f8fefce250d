// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.Rotary;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * Rotary embedding, full and partial, forward and back, in the middle of a fused tensor and in a
 * cache's layout.
 */
class RotaryParityTest extends ParityTest {
  private static final long SEED = 4150;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    // tokens, heads, head size, rotary dimension
    int[][] shapes = {
      {0, 2, 16, 16},
      {1, 1, 2, 2},
      {1, 3, 8, 8},
      {5, 2, 16, 8},
      {7, 3, 64, 64},
      {9, 1, 80, 20},
      {4, 2, 96, 34},
      {130, 4, 128, 128},
    };
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (int[] s : shapes) {
        for (boolean inverse : new boolean[] {false, true}) {
          for (boolean headMajor : new boolean[] {false, true}) {
            cases.add(
                new Case(
                    type
                        + " tokens="
                        + s[0]
                        + " heads="
                        + s[1]
                        + " dim="
                        + s[2]
                        + " rotary="
                        + s[3]
                        + (inverse ? " inverse" : "")
                        + (headMajor ? " [head][token]" : " fused")
                        + " seed="
                        + SEED,
                    "rotary",
                    (long) s[0] * s[1] * s[3],
                    (memory, outputs) -> rotate(type, s, inverse, headMajor, memory, outputs)));
          }
        }
      }
    }
    return cases;
  }

  private static void rotate(
      DType type,
      int[] s,
      boolean inverse,
      boolean headMajor,
      DeviceMemory memory,
      Outputs outputs) {
    int tokens = s[0];
    int heads = s[1];
    int dim = s[2];
    int rotary = s[3];
    Randoms random = new Randoms(SEED + dim);
    int[] positions = new int[tokens];
    for (int t = 0; t < tokens; t++) {
      positions[t] = t % 3 == 2 ? random.below(131_072) : t;
    }
    float[] frequencies = new float[rotary / 2];
    for (int i = 0; i < frequencies.length; i++) {
      frequencies[i] = (float) Math.pow(10_000, -2.0 * i / rotary);
    }
    DeviceTensor x;
    HeadView view;
    if (headMajor) {
      x = memory.of(type, random.normal((long) heads * tokens * dim, 1), heads, tokens, dim);
      view = new HeadView(x, 0, dim, (long) tokens * dim);
    } else {
      int width = (heads + 2) * dim;
      x = memory.of(type, random.normal((long) tokens * width, 1), tokens, width);
      view = new HeadView(x, dim, width, dim);
    }
    Rotary.apply(
        memory.pack(),
        view,
        heads,
        rotary,
        memory.of(positions, tokens),
        memory.of(DType.F32, frequencies, rotary / 2),
        1.25f,
        inverse);
    // Sine and cosine are at most 1, so their error counts relative to the largest element; in bf16
    // they are rounded first.
    Tolerance tolerance =
        Tolerance.rounded(type, 1).plus(Tolerance.ofLargest(16 * Tolerance.roundoff(DType.F32)));
    outputs.add(
        "x",
        x,
        type == DType.BF16 ? tolerance.plus(Tolerance.intermediate(DType.BF16)) : tolerance);
  }
}
