// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * Loss and gradient of softmax cross entropy, with smoothing and z-loss, with gaps and over the
 * logits.
 */
class CrossEntropyParityTest extends ParityTest {
  private static final long SEED = 4170;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] shapes = {
      {0, 8},
      {1, 1},
      {1, 7},
      {2, 15},
      {3, 16},
      {2, 17},
      {4, 63},
      {5, 64},
      {3, 65},
      {70, 1000},
      {3, 32_003}
    };
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (float smoothing : new float[] {0, 0.1f}) {
        for (float zLoss : new float[] {0, 1e-4f}) {
          for (int[] s : shapes) {
            for (int mode = 0; mode <= 2; mode++) {
              int layout = mode;
              cases.add(
                  new Case(
                      type
                          + " ["
                          + s[0]
                          + ", "
                          + s[1]
                          + "] smoothing="
                          + smoothing
                          + " z="
                          + zLoss
                          + List.of(" apart", " in place", " gaps").get(mode)
                          + " seed="
                          + SEED,
                      "cross_entropy",
                      (long) s[0] * s[1],
                      (memory, outputs) ->
                          loss(type, s[0], s[1], smoothing, zLoss, layout, memory, outputs)));
            }
          }
        }
      }
    }
    return cases;
  }

  private static void loss(
      DType type,
      int m,
      int n,
      float smoothing,
      float zLoss,
      int layout,
      DeviceMemory memory,
      Outputs outputs) {
    Randoms random = new Randoms(SEED + n);
    float[] values = random.normal((long) m * n, 4);
    int[] labels = new int[m];
    for (int i = 0; i < m; i++) {
      labels[i] = i % 5 == 3 ? CrossEntropy.IGNORE : random.below(n);
      for (int j = 0; j < n; j++) {
        // One row far below the others, one with a peak: both overflow a sum that does not subtract
        // the maximum.
        values[i * n + j] += i % 4 == 1 ? -1000 : i % 4 == 2 && j == n / 2 ? 90 : 0;
      }
    }
    DeviceTensor logits =
        layout == 2 ? memory.ofStrided(type, values, m, n, n + 3) : memory.of(type, values, m, n);
    DeviceTensor dlogits =
        layout == 0
            ? memory.empty(type, m, n)
            : layout == 1 ? logits : memory.strided(type, m, n, n + 6);
    DeviceTensor loss = memory.empty(DType.F32, m);
    DeviceTensor lossAlone = memory.empty(DType.F32, m);
    DeviceTensor labelTensor = memory.of(labels, m);
    CrossEntropy.apply(
        memory.pack(), logits, labelTensor, smoothing, zLoss, 0.125f, lossAlone, null);
    CrossEntropy.apply(memory.pack(), logits, labelTensor, smoothing, zLoss, 0.125f, loss, dlogits);
    // log-sum-exp is as accurate as f32 holds logits of up to 1000; the loss is a difference of
    // such numbers.
    Tolerance result =
        Tolerance.function(16).plus(Tolerance.ofLargest(16 * Tolerance.roundoff(DType.F32)));
    if (m > 1) {
      result =
          result.plus(
              new Tolerance(0, 1000 * Tolerance.roundoff(DType.F32), "logits around -1000"));
    }
    outputs.add("loss", loss, result);
    outputs.add("loss alone", lossAlone, result);
    // The argument of an exponential is rounded at the size of the logits: up to 1000 roundoffs of
    // the probability.
    outputs.add(
        "dlogits",
        dlogits,
        Tolerance.rounded(type, 1)
            .plus(Tolerance.function(2048))
            .plus(Tolerance.ofLargest(16 * Tolerance.roundoff(DType.F32))));
  }
}
