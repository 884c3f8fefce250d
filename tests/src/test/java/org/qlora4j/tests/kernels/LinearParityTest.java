// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.Weight;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * Forward and gradient to the input of a linear: every storage, with and without a LoRA branch,
 * bias, residual and gaps.
 */
class LinearParityTest extends ParityTest {
  private static final long SEED = 4110;
  private static final float S = 2;

  /** The LoRA branch of a case; rank 0 is none. */
  private record Branch(int rank, LoraCompute compute, float dropout) {
    static final Branch NONE = new Branch(0, LoraCompute.FAST, 0);
    static final Branch FAST = new Branch(8, LoraCompute.FAST, 0);
    static final Branch F32 = new Branch(8, LoraCompute.F32, 0);
    static final Branch DROPOUT = new Branch(8, LoraCompute.FAST, 0.1f);
    static final Branch ODD = new Branch(5, LoraCompute.F32, 0.5f);
  }

  private record Setup(
      DType type,
      Weights.Kind weight,
      int m,
      int n,
      int k,
      Branch branch,
      boolean bias,
      boolean residual,
      boolean gaps) {
    String title(String operator) {
      return operator
          + " "
          + type
          + " "
          + weight
          + " m="
          + m
          + " n="
          + n
          + " k="
          + k
          + (branch.rank() == 0 ? "" : " " + branch)
          + (bias ? " bias" : "")
          + (residual ? " residual" : "")
          + (gaps ? " gaps" : "")
          + " seed="
          + SEED;
    }

    long work() {
      return (long) m * n * k;
    }
  }

  @Override
  protected List<Case> cases() {
    List<Setup> setups = new ArrayList<>();
    int[][] shapes = {
      {0, 8, 16},
      {1, 1, 1},
      {1, 3, 5},
      {2, 17, 33},
      {3, 63, 65},
      {4, 64, 64},
      {5, 65, 127},
      {7, 96, 200},
      {8, 33, 256},
      {15, 31, 130},
      {16, 128, 192},
      {17, 130, 193},
      {33, 65, 100},
    };
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (Weights.Kind weight : Weights.Kind.CANONICAL) {
        for (int[] s : shapes) {
          setups.add(new Setup(type, weight, s[0], s[1], s[2], Branch.NONE, false, false, false));
        }
        setups.add(new Setup(type, weight, 6, 70, 90, Branch.FAST, true, true, true));
        setups.add(new Setup(type, weight, 19, 67, 129, Branch.DROPOUT, false, false, false));
      }
      for (Branch branch : List.of(Branch.FAST, Branch.F32, Branch.DROPOUT, Branch.ODD)) {
        setups.add(
            new Setup(type, Weights.Kind.NF4_NESTED, 1, 64, 64, branch, false, false, false));
        setups.add(
            new Setup(type, Weights.Kind.NF4_NESTED, 13, 100, 72, branch, true, false, false));
        setups.add(
            new Setup(type, Weights.Kind.NF4_NESTED, 64, 128, 192, branch, false, true, true));
        setups.add(new Setup(type, Weights.Kind.DENSE_BF16, 9, 40, 56, branch, true, true, true));
      }
      for (Weights.Kind weight : List.of(Weights.Kind.INT8, Weights.Kind.FP8)) {
        // Rows that are, and are not, a multiple of 16 codes; more than one step along the sum.
        setups.add(new Setup(type, weight, 64, 128, 256, Branch.FAST, true, true, false));
        setups.add(new Setup(type, weight, 33, 72, 544, Branch.F32, false, true, true));
        setups.add(new Setup(type, weight, 1, 260, 1040, Branch.ODD, false, false, false));
      }
      setups.add(
          new Setup(type, Weights.Kind.NF4_NESTED, 0, 64, 64, Branch.FAST, true, false, false));
      setups.add(
          new Setup(type, Weights.Kind.NF4_NESTED, 131, 259, 515, Branch.FAST, false, true, false));
      setups.add(
          new Setup(
              type, Weights.Kind.NF4_NESTED, 1, 520, 1030, Branch.DROPOUT, false, false, false));
      setups.add(
          new Setup(type, Weights.Kind.DENSE_F32, 70, 300, 310, Branch.NONE, true, false, true));
      packed(setups, type);
    }
    List<Case> cases = new ArrayList<>();
    for (Setup setup : setups) {
      cases.add(
          new Case(
              setup.title("forward"),
              setup.weight().packed ? "pack_weight" : "linear_forward",
              setup.work(),
              (memory, outputs) -> forward(setup, memory, outputs)));
      cases.add(
          new Case(
              setup.title("backward_input"),
              setup.weight().packed ? "pack_weight" : "linear_backward_input",
              setup.work(),
              (memory, outputs) -> backward(setup, memory, outputs)));
    }
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (Weights.Kind weight :
          List.of(
              Weights.Kind.DENSE_BF16,
              Weights.Kind.NF4_NESTED,
              Weights.Kind.INT8,
              Weights.Kind.FP8)) {
        cases.add(
            new Case(
                "forward with NaN and infinity " + type + " " + weight + " seed=" + SEED,
                "linear_forward",
                5L * 40 * 70,
                (memory, outputs) -> notFinite(type, weight, memory, outputs)));
      }
    }
    return cases;
  }

  /** Few and many rows, of weights that 16 x 64 tiles fit and of others. */
  private static void packed(List<Setup> setups, DType type) {
    int[][] shapes = {
      {0, 16, 64},
      {1, 1, 1},
      {1, 16, 64},
      {1, 48, 576},
      {2, 17, 33},
      {5, 15, 128},
      {7, 320, 128},
      {8, 16, 192},
      {9, 64, 128},
      {16, 32, 256},
      {17, 96, 128},
      {32, 16, 320},
      {33, 48, 128},
      {64, 32, 128},
      {65, 48, 192},
      {130, 144, 64},
    };
    for (int[] s : shapes) {
      for (Weights.Kind weight : List.of(Weights.Kind.PACKED_NF4, Weights.Kind.PACKED_FP4)) {
        setups.add(new Setup(type, weight, s[0], s[1], s[2], Branch.NONE, false, false, false));
      }
    }
    for (Branch branch : List.of(Branch.FAST, Branch.F32, Branch.DROPOUT, Branch.ODD)) {
      for (int m : new int[] {1, 6, 20, 50, 80}) {
        setups.add(
            new Setup(type, Weights.Kind.PACKED_NF4, m, 48, 192, branch, true, true, m % 4 != 0));
      }
      setups.add(new Setup(type, Weights.Kind.PACKED_FP4, 3, 20, 72, branch, true, false, true));
    }
  }

  private static @Nullable LoraTerm lora(Setup setup, DeviceMemory memory, Randoms random) {
    Branch branch = setup.branch();
    if (branch.rank() == 0) {
      return null;
    }
    Dropout dropout =
        branch.dropout() == 0
            ? Dropout.NONE
            : new Dropout(branch.dropout(), 0x1234_5678_9abcL, 3, 1, 17, 5);
    int rank = branch.rank();
    return new LoraTerm(
        rank,
        S,
        branch.compute(),
        memory.of(
            DType.F32,
            random.normal((long) rank * setup.k(), 1 / Math.sqrt(setup.k())),
            rank,
            setup.k()),
        memory.of(DType.F32, random.normal((long) setup.n() * rank, 0.5), setup.n(), rank),
        dropout);
  }

  private static DeviceTensor matrix(
      DeviceMemory memory, Setup setup, float[] values, int rows, int cols) {
    return setup.gaps()
        ? memory.ofStrided(setup.type(), values, rows, cols, cols + 3)
        : memory.of(setup.type(), values, rows, cols);
  }

  /**
   * Results are of the size of their largest partial sums; the branch adds one bf16 rounding where
   * its inner result was rounded.
   */
  private static Tolerance result(Setup setup, long terms, int roundings) {
    Tolerance tolerance = Tolerance.rounded(setup.type(), roundings).plus(Tolerance.sum(terms));
    boolean roundsInside =
        setup.branch().rank() > 0
            && setup.type() == DType.BF16
            && setup.branch().compute() == LoraCompute.FAST;
    return roundsInside ? tolerance.plus(Tolerance.intermediate(DType.BF16)) : tolerance;
  }

  private static Tolerance inner(Setup setup, long terms) {
    boolean rounds = setup.type() == DType.BF16 && setup.branch().compute() == LoraCompute.FAST;
    return Tolerance.rounded(rounds ? DType.BF16 : DType.F32, 1).plus(Tolerance.sum(terms));
  }

  private static void forward(Setup setup, DeviceMemory memory, Outputs outputs) {
    Randoms random = new Randoms(SEED + setup.work());
    int m = setup.m();
    int n = setup.n();
    int k = setup.k();
    DeviceTensor x = matrix(memory, setup, random.normal((long) m * k, 1), m, k);
    Weight weight =
        Weights.of(memory, setup.weight(), random.normal((long) n * k, 1 / Math.sqrt(k)), n, k);
    LoraTerm lora = lora(setup, memory, random);
    DType biasType = n % 2 == 0 ? DType.F32 : DType.BF16;
    DeviceTensor bias = setup.bias() ? memory.of(biasType, random.normal(n, 1), n) : null;
    float[] residualValues = random.normal((long) m * n, 1);
    DeviceTensor y;
    DeviceTensor residual = null;
    if (setup.residual()) {
      // The residual may be the output itself.
      y = matrix(memory, setup, residualValues, m, n);
      residual = m % 2 == 0 ? y : memory.of(setup.type(), residualValues, m, n);
    } else {
      y =
          setup.gaps()
              ? memory.strided(setup.type(), m, n, n + 5)
              : memory.empty(setup.type(), m, n);
    }
    DeviceTensor xa = lora == null ? null : memory.empty(DType.F32, m, lora.rank());
    Linear.forward(memory.pack(), x, weight, lora, bias, residual, y, xa);
    outputs.add("y", y, result(setup, k, 1));
    if (xa != null) {
      outputs.add("xa", xa, inner(setup, k));
    }
  }

  private static void backward(Setup setup, DeviceMemory memory, Outputs outputs) {
    Randoms random = new Randoms(SEED + setup.work() + 1);
    int m = setup.m();
    int n = setup.n();
    int k = setup.k();
    DeviceTensor dy = matrix(memory, setup, random.normal((long) m * n, 1), m, n);
    Weight weight =
        Weights.of(memory, setup.weight(), random.normal((long) n * k, 1 / Math.sqrt(n)), n, k);
    LoraTerm lora = lora(setup, memory, random);
    boolean accumulate = setup.residual();
    DeviceTensor dx =
        accumulate
            ? matrix(memory, setup, random.normal((long) m * k, 1), m, k)
            : setup.gaps()
                ? memory.strided(setup.type(), m, k, k + 1)
                : memory.empty(setup.type(), m, k);
    DeviceTensor dyb = lora == null ? null : memory.empty(DType.F32, m, lora.rank());
    Linear.backwardInput(memory.pack(), dy, weight, lora, dx, accumulate, dyb);
    outputs.add("dx", dx, result(setup, n, 1));
    if (lora != null && dyb != null) {
      outputs.add("dyb", dyb, inner(setup, n));
      DeviceTensor alone = memory.empty(DType.F32, m, lora.rank());
      Linear.backwardInput(memory.pack(), dy, null, lora, null, false, alone);
      outputs.add("dyb alone", alone, inner(setup, n));
    }
  }

  private static void notFinite(
      DType type, Weights.Kind kind, DeviceMemory memory, Outputs outputs) {
    int m = 5;
    int n = 40;
    int k = 70;
    Randoms random = new Randoms(SEED);
    float[] x = random.normal((long) m * k, 1);
    x[3] = Float.NaN;
    x[k + 69] = Float.POSITIVE_INFINITY;
    x[3 * k] = Float.NEGATIVE_INFINITY;
    DeviceTensor y = memory.empty(type, m, n);
    // No weight is zero, so that an infinity stays one in every pack's order of summation.
    float[] w = random.uniform((long) n * k, 0.5, 1);
    Linear.forward(
        memory.pack(),
        memory.of(type, x, m, k),
        Weights.of(memory, kind, w, n, k),
        null,
        null,
        null,
        y,
        null);
    outputs.add("y", y, Tolerance.rounded(type, 1).plus(Tolerance.sum(k)));
  }
}
