// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.RmsNorm;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/** RMSNorm forward and backward, Llama's and Gemma's form, with and without a residual. */
class RmsNormParityTest extends ParityTest {
  private static final long SEED = 4130;
  private static final float EPS = 1e-5f;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] shapes = {
      {0, 8}, {1, 1}, {1, 7}, {2, 15}, {3, 16}, {2, 17}, {4, 63}, {5, 64}, {3, 65}, {7, 1000},
      {130, 96}, {2, 4099},
    };
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (DType weightType : List.of(DType.F32, DType.BF16)) {
        for (boolean unitOffset : new boolean[] {false, true}) {
          for (int[] s : shapes) {
            String name =
                type
                    + " weight "
                    + weightType
                    + " ["
                    + s[0]
                    + ", "
                    + s[1]
                    + "]"
                    + (unitOffset ? " 1+w" : "")
                    + " seed="
                    + SEED;
            long work = (long) s[0] * s[1];
            for (int residual = 0; residual <= 2; residual++) {
              int mode = residual;
              cases.add(
                  new Case(
                      "forward " + name + " residual " + mode,
                      "rms_norm_forward",
                      work,
                      (memory, outputs) ->
                          forward(
                              type, weightType, s[0], s[1], unitOffset, mode, memory, outputs)));
              cases.add(
                  new Case(
                      "backward " + name + " residual " + mode,
                      "rms_norm_backward",
                      work,
                      (memory, outputs) ->
                          backward(
                              type, weightType, s[0], s[1], unitOffset, mode, memory, outputs)));
            }
          }
        }
      }
      cases.add(
          new Case(
              "NaN and infinity " + type + " seed=" + SEED,
              "rms_norm_forward",
              200,
              (memory, outputs) -> notFinite(type, memory, outputs)));
    }
    return cases;
  }

  /** One rounding of u * rstd, whose rstd carries a few f32 roundoffs, and one of the product. */
  private static Tolerance result(DType type) {
    return Tolerance.rounded(type, 2).plus(Tolerance.function(8));
  }

  /** residual 0: none; 1: with one, sum apart; 2: the sum overwrites the residual. */
  private static void forward(
      DType type,
      DType weightType,
      int m,
      int n,
      boolean unitOffset,
      int residual,
      DeviceMemory memory,
      Outputs outputs) {
    Randoms random = new Randoms(SEED + n);
    DeviceTensor x = memory.of(type, random.normal((long) m * n, 2), m, n);
    DeviceTensor weight = memory.of(weightType, random.uniform(n, 0.5, 1.5), n);
    DeviceTensor r = residual == 0 ? null : memory.of(type, random.normal((long) m * n, 1), m, n);
    DeviceTensor sum = residual == 0 ? null : residual == 1 ? memory.empty(type, m, n) : r;
    DeviceTensor y = memory.empty(type, m, n);
    DeviceTensor rstd = memory.empty(DType.F32, m);
    RmsNorm.forward(memory.pack(), x, r, weight, EPS, unitOffset, sum, y, rstd);
    outputs.add("y", y, result(type));
    // A sum of squares has no cancellation: its relative error is that of the sum.
    outputs.add("rstd", rstd, Tolerance.function(8).plus(Tolerance.sum(n)));
    if (sum != null) {
      outputs.add("sum", sum, Tolerance.EXACT);
    }
  }

  private static void backward(
      DType type,
      DType weightType,
      int m,
      int n,
      boolean unitOffset,
      int residual,
      DeviceMemory memory,
      Outputs outputs) {
    Randoms random = new Randoms(SEED + n + 1);
    DeviceTensor u = memory.of(type, random.normal((long) m * n, 2), m, n);
    DeviceTensor weight = memory.of(weightType, random.uniform(n, 0.5, 1.5), n);
    DeviceTensor rstd = memory.of(DType.F32, random.uniform(m, 0.3, 0.7), m);
    DeviceTensor dy = memory.of(type, random.normal((long) m * n, 1), m, n);
    float[] path = random.normal((long) m * n, 1);
    DeviceTensor dresidual = residual == 0 ? null : memory.of(type, path, m, n);
    DeviceTensor dx = residual == 2 && dresidual != null ? dresidual : memory.empty(type, m, n);
    DeviceTensor dweight = residual == 1 ? null : memory.of(DType.F32, random.normal(n, 1), n);
    RmsNorm.backward(memory.pack(), u, weight, unitOffset, rstd, dy, dresidual, dx, dweight);
    outputs.add("dx", dx, Tolerance.rounded(type, 1).plus(Tolerance.sum(n)));
    if (dweight != null) {
      outputs.add("dweight", dweight, Tolerance.rounded(DType.F32, 1).plus(Tolerance.sum(m)));
    }
  }

  private static void notFinite(DType type, DeviceMemory memory, Outputs outputs) {
    int m = 4;
    int n = 50;
    Randoms random = new Randoms(SEED);
    float[] x = random.normal((long) m * n, 1);
    x[3] = Float.NaN;
    x[n + 49] = Float.POSITIVE_INFINITY;
    x[2 * n] = Float.NEGATIVE_INFINITY;
    DeviceTensor y = memory.empty(type, m, n);
    DeviceTensor rstd = memory.empty(DType.F32, m);
    RmsNorm.forward(
        memory.pack(),
        memory.of(type, x, m, n),
        null,
        memory.of(DType.F32, random.uniform(n, 0.5, 1.5), n),
        EPS,
        false,
        null,
        y,
        rstd);
    outputs.add("y", y, result(type));
    outputs.add("rstd", rstd, Tolerance.function(8).plus(Tolerance.sum(n)));
  }
}
