// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.LayerNorm;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/** LayerNorm forward and backward, with and without a residual and a bias. */
class LayerNormParityTest extends ParityTest {
  private static final long SEED = 4140;
  private static final float EPS = 1e-5f;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] shapes = {
      {0, 8}, {1, 2}, {1, 7}, {2, 15}, {3, 16}, {2, 17}, {4, 63}, {5, 64}, {3, 65}, {7, 1000},
      {130, 96}, {2, 4099},
    };
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (DType weightType : List.of(DType.F32, DType.BF16)) {
        for (int[] s : shapes) {
          String name =
              type + " weight " + weightType + " [" + s[0] + ", " + s[1] + "] seed=" + SEED;
          for (int mode = 0; mode <= 2; mode++) {
            int residual = mode;
            cases.add(
                new Case(
                    "forward " + name + " residual " + residual,
                    "layer_norm_forward",
                    (long) s[0] * s[1],
                    (memory, outputs) ->
                        forward(type, weightType, s[0], s[1], residual, memory, outputs)));
            cases.add(
                new Case(
                    "backward " + name + " residual " + residual,
                    "layer_norm_backward",
                    (long) s[0] * s[1],
                    (memory, outputs) ->
                        backward(type, weightType, s[0], s[1], residual, memory, outputs)));
          }
        }
      }
    }
    return cases;
  }

  private static void forward(
      DType type,
      DType weightType,
      int m,
      int n,
      int residual,
      DeviceMemory memory,
      Outputs outputs) {
    Randoms random = new Randoms(SEED + n);
    float[] values = random.normal((long) m * n, 2);
    for (int i = 0; i < values.length; i++) {
      // A mean well away from zero: a one-pass variance in f32 would lose digits here.
      values[i] += 20;
    }
    DeviceTensor x = memory.of(type, values, m, n);
    DeviceTensor weight = memory.of(weightType, random.uniform(n, 0.5, 1.5), n);
    DeviceTensor bias = residual == 1 ? null : memory.of(weightType, random.normal(n, 1), n);
    DeviceTensor r = residual == 0 ? null : memory.of(type, random.normal((long) m * n, 1), m, n);
    DeviceTensor sum = residual == 0 ? null : residual == 1 ? memory.empty(type, m, n) : x;
    DeviceTensor y = memory.empty(type, m, n);
    DeviceTensor mean = memory.empty(DType.F32, m);
    DeviceTensor rstd = memory.empty(DType.F32, m);
    LayerNorm.forward(memory.pack(), x, r, weight, bias, EPS, sum, y, mean, rstd);
    // x - mean loses what the mean's roundoff is relative to the deviation: |mean| / deviation =
    // 10.
    outputs.add(
        "y",
        y,
        Tolerance.rounded(type, 1).plus(Tolerance.sum(n)).plus(Tolerance.ofLargest(10 * 0x1p-23)));
    outputs.add("mean", mean, Tolerance.function(8).plus(Tolerance.sum(n)));
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
      int residual,
      DeviceMemory memory,
      Outputs outputs) {
    Randoms random = new Randoms(SEED + n + 1);
    DeviceTensor u = memory.of(type, random.normal((long) m * n, 2), m, n);
    DeviceTensor weight = memory.of(weightType, random.uniform(n, 0.5, 1.5), n);
    DeviceTensor mean = memory.of(DType.F32, random.normal(m, 0.5), m);
    DeviceTensor rstd = memory.of(DType.F32, random.uniform(m, 0.3, 0.7), m);
    DeviceTensor dy = memory.of(type, random.normal((long) m * n, 1), m, n);
    DeviceTensor dresidual =
        residual == 0 ? null : memory.of(type, random.normal((long) m * n, 1), m, n);
    DeviceTensor dx = residual == 2 && dresidual != null ? dresidual : memory.empty(type, m, n);
    DeviceTensor dweight = residual == 1 ? null : memory.of(DType.F32, random.normal(n, 1), n);
    DeviceTensor dbias = residual == 2 ? null : memory.of(DType.F32, random.normal(n, 1), n);
    LayerNorm.backward(memory.pack(), u, weight, mean, rstd, dy, dresidual, dx, dweight, dbias);
    outputs.add("dx", dx, Tolerance.rounded(type, 1).plus(Tolerance.sum(n)));
    Tolerance gradient = Tolerance.rounded(DType.F32, 1).plus(Tolerance.sum(m));
    if (dweight != null) {
      outputs.add("dweight", dweight, gradient);
    }
    if (dbias != null) {
      outputs.add("dbias", dbias, gradient);
    }
  }
}
