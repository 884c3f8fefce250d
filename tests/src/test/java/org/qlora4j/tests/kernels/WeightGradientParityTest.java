// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.Lora;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * Gradients of the LoRA matrices and of a trained weight and bias; all are added to what was there.
 */
class WeightGradientParityTest extends ParityTest {
  private static final long SEED = 4120;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] shapes = {
      {0, 8, 16, 4},
      {1, 1, 1, 1},
      {2, 3, 5, 2},
      {7, 17, 33, 3},
      {16, 64, 64, 8},
      {31, 65, 63, 16},
      {64, 96, 130, 8},
      {129, 70, 257, 5},
    };
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (int[] s : shapes) {
        for (boolean gaps : new boolean[] {false, true}) {
          String shape =
              " m=" + s[0] + " n=" + s[1] + " k=" + s[2] + (gaps ? " gaps" : "") + " seed=" + SEED;
          for (LoraCompute compute : LoraCompute.values()) {
            for (float dropout : new float[] {0, 0.3f}) {
              cases.add(
                  new Case(
                      "lora "
                          + type
                          + " rank="
                          + s[3]
                          + " "
                          + compute
                          + " dropout="
                          + dropout
                          + shape,
                      "lora_weight_gradient",
                      (long) s[0] * s[3] * (s[1] + s[2]),
                      (memory, outputs) -> lora(type, s, gaps, compute, dropout, memory, outputs)));
            }
          }
          cases.add(
              new Case(
                  "linear " + type + shape,
                  "linear_weight_gradient",
                  (long) s[0] * s[1] * s[2],
                  (memory, outputs) -> linear(type, s, gaps, memory, outputs)));
        }
      }
    }
    return cases;
  }

  private static DeviceTensor matrix(
      DeviceMemory memory, DType type, float[] values, int rows, int cols, boolean gaps) {
    return gaps
        ? memory.ofStrided(type, values, rows, cols, cols + 7)
        : memory.of(type, values, rows, cols);
  }

  private static void lora(
      DType type,
      int[] s,
      boolean gaps,
      LoraCompute compute,
      float dropout,
      DeviceMemory memory,
      Outputs outputs) {
    int m = s[0];
    int n = s[1];
    int k = s[2];
    int rank = s[3];
    Randoms random = new Randoms(SEED + (long) m * n * k);
    Dropout mask = dropout == 0 ? Dropout.NONE : new Dropout(dropout, -77, 1, 2, 3, 4);
    LoraTerm term =
        new LoraTerm(
            rank,
            0.5f,
            compute,
            memory.of(DType.F32, random.normal((long) rank * k, 1), rank, k),
            memory.of(DType.F32, random.normal((long) n * rank, 1), n, rank),
            mask);
    DeviceTensor x = matrix(memory, type, random.normal((long) m * k, 1), m, k, gaps);
    DeviceTensor dy = matrix(memory, type, random.normal((long) m * n, 1), m, n, gaps);
    // What the forward leaves here: rounded to bf16 in the fast mode.
    DType inner = type == DType.BF16 && compute == LoraCompute.FAST ? DType.BF16 : DType.F32;
    float[] xaValues = memory.of(inner, random.normal((long) m * rank, 1), m, rank).toFloats();
    float[] dybValues = memory.of(inner, random.normal((long) m * rank, 1), m, rank).toFloats();
    DeviceTensor xa = memory.of(DType.F32, xaValues, m, rank);
    DeviceTensor dyb = memory.of(DType.F32, dybValues, m, rank);
    DeviceTensor da = memory.of(DType.F32, random.normal((long) rank * k, 1), rank, k);
    DeviceTensor db = memory.of(DType.F32, random.normal((long) n * rank, 1), n, rank);
    Lora.weightGradient(memory.pack(), term, x, dy, xa, dyb, da, db);
    Tolerance tolerance = Tolerance.rounded(DType.F32, 1).plus(Tolerance.sum(m));
    outputs.add("da", da, tolerance);
    outputs.add("db", db, tolerance);
  }

  private static void linear(
      DType type, int[] s, boolean gaps, DeviceMemory memory, Outputs outputs) {
    int m = s[0];
    int n = s[1];
    int k = s[2];
    Randoms random = new Randoms(SEED + (long) m * n * k);
    DeviceTensor x = matrix(memory, type, random.normal((long) m * k, 1), m, k, gaps);
    DeviceTensor dy = matrix(memory, type, random.normal((long) m * n, 1), m, n, gaps);
    DeviceTensor dw = memory.of(DType.F32, random.normal((long) n * k, 1), n, k);
    DeviceTensor dbias = memory.of(DType.F32, random.normal(n, 1), n);
    Linear.weightGradient(memory.pack(), x, dy, dw, dbias);
    Tolerance tolerance = Tolerance.rounded(DType.F32, 1).plus(Tolerance.sum(m));
    outputs.add("dw", dw, tolerance);
    outputs.add("dbias", dbias, tolerance);
    DeviceTensor bias = memory.zeros(DType.F32, n);
    Linear.weightGradient(memory.pack(), x, dy, null, bias);
    outputs.add("dbias alone", bias, tolerance);
  }
}
