// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * Causal attention: several sequences, grouped heads, windows, caches, fused and separate tensors;
 * forward and backward.
 */
class AttentionParityTest extends ParityTest {
  private static final long SEED = 4180;

  private record Setup(DType type, Attention.Shape shape, int[] cuQ, int[] cuK, boolean fused) {
    String title() {
      return type
          + " heads="
          + shape.heads()
          + "/"
          + shape.kvHeads()
          + " dim="
          + shape.headDim()
          + (shape.window() == 0 ? "" : " window=" + shape.window())
          + " q="
          + Arrays.toString(cuQ)
          + (Arrays.equals(cuQ, cuK) ? "" : " k=" + Arrays.toString(cuK))
          + (fused ? " fused" : "")
          + " seed="
          + SEED;
    }

    int queries() {
      return cuQ[cuQ.length - 1];
    }

    int keys() {
      return cuK[cuK.length - 1];
    }

    long work() {
      return (long) queries() * keys() * shape.heads() * shape.headDim();
    }
  }

  @Override
  protected List<Case> cases() {
    List<Setup> setups = new ArrayList<>();
    int[][] lengths = {{0}, {0, 1}, {0, 7}, {0, 15, 16, 33}, {0, 0, 31, 31, 96}, {0, 64, 129}};
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (int[] cu : lengths) {
        setups.add(new Setup(type, Attention.Shape.causal(2, 2, 16), cu, cu, false));
        setups.add(new Setup(type, Attention.Shape.causal(6, 2, 40), cu, cu, true));
        setups.add(new Setup(type, new Attention.Shape(4, 1, 64, 5, 0.2f), cu, cu, false));
      }
      setups.add(
          new Setup(
              type, Attention.Shape.causal(2, 1, 8), new int[] {0, 17}, new int[] {0, 17}, false));
      setups.add(
          new Setup(
              type,
              Attention.Shape.causal(2, 1, 128),
              new int[] {0, 65, 130},
              new int[] {0, 65, 130},
              true));
      setups.add(
          new Setup(
              type,
              Attention.Shape.causal(1, 1, 256),
              new int[] {0, 20},
              new int[] {0, 20},
              false));
      setups.add(
          new Setup(
              type,
              Attention.Shape.causal(4, 2, 64),
              new int[] {0, 1, 2},
              new int[] {0, 100, 133},
              false));
      setups.add(
          new Setup(
              type,
              Attention.Shape.causal(4, 2, 64),
              new int[] {0, 3, 10},
              new int[] {0, 40, 47},
              false));
      setups.add(
          new Setup(
              type,
              new Attention.Shape(4, 2, 64, 16, 0.125f),
              new int[] {0, 1, 6},
              new int[] {0, 100, 133},
              false));
      // More queries than keys: the first ones see nothing.
      setups.add(
          new Setup(
              type, Attention.Shape.causal(2, 2, 16), new int[] {0, 9}, new int[] {0, 4}, false));
      setups.add(
          new Setup(
              type,
              Attention.Shape.causal(4, 4, 64),
              new int[] {0, 515},
              new int[] {0, 515},
              false));
    }
    List<Case> cases = new ArrayList<>();
    for (Setup setup : setups) {
      cases.add(
          new Case(
              "forward " + setup.title(),
              "attention_forward",
              setup.work(),
              (memory, outputs) -> new Run(setup, memory).forward(outputs)));
      cases.add(
          new Case(
              "backward " + setup.title(),
              "attention_backward",
              4 * setup.work(),
              (memory, outputs) -> new Run(setup, memory).backward(outputs)));
    }
    return cases;
  }

  /** The tensors of one run. */
  private static final class Run {
    private final Setup setup;
    private final DeviceMemory memory;
    private final HeadView q;
    private final HeadView k;
    private final HeadView v;
    private final DeviceTensor out;
    private final DeviceTensor lse;
    private final Randoms random;

    Run(Setup setup, DeviceMemory memory) {
      this.setup = setup;
      this.memory = memory;
      this.random = new Randoms(SEED + setup.work());
      Attention.Shape shape = setup.shape();
      int dim = shape.headDim();
      int heads = shape.heads();
      int kvHeads = shape.kvHeads();
      if (setup.fused()) {
        int width = (heads + 2 * kvHeads) * dim;
        DeviceTensor qkv =
            memory.of(
                setup.type(),
                random.normal((long) setup.queries() * width, 1),
                setup.queries(),
                width);
        q = new HeadView(qkv, 0, width, dim);
        k = new HeadView(qkv, (long) heads * dim, width, dim);
        v = new HeadView(qkv, (long) (heads + kvHeads) * dim, width, dim);
      } else {
        q = HeadView.of(random(setup.queries(), heads), dim);
        // Keys and values as a cache keeps them: head by head.
        k = cache(kvHeads);
        v = cache(kvHeads);
      }
      out = memory.empty(setup.type(), setup.queries(), (long) heads * dim);
      lse = memory.empty(DType.F32, heads, setup.queries());
    }

    private DeviceTensor random(int tokens, int heads) {
      long width = (long) heads * setup.shape().headDim();
      return memory.of(setup.type(), random.normal(tokens * width, 1), tokens, width);
    }

    private HeadView cache(int kvHeads) {
      int dim = setup.shape().headDim();
      int positions = setup.keys() + 3;
      DeviceTensor base =
          memory.of(
              setup.type(),
              random.normal((long) kvHeads * positions * dim, 1),
              kvHeads,
              positions,
              dim);
      return new HeadView(base, 0, dim, (long) positions * dim);
    }

    void forward(Outputs outputs) {
      DeviceTensor withoutLse = memory.empty(setup.type(), out.shape());
      Attention.forward(
          memory.pack(),
          setup.shape(),
          setup.cuQ(),
          setup.cuK(),
          q,
          k,
          v,
          HeadView.of(out, setup.shape().headDim()),
          lse);
      Attention.forward(
          memory.pack(),
          setup.shape(),
          setup.cuQ(),
          setup.cuK(),
          q,
          k,
          v,
          HeadView.of(withoutLse, setup.shape().headDim()),
          null);
      outputs.add("out", out, tolerance(1));
      outputs.add("out without lse", withoutLse, tolerance(1));
      outputs.add("lse", lse, Tolerance.function(16).plus(Tolerance.sum(setup.shape().headDim())));
    }

    void backward(Outputs outputs) {
      int dim = setup.shape().headDim();
      HeadView outView = HeadView.of(out, dim);
      Attention.forward(
          memory.pack(), setup.shape(), setup.cuQ(), setup.cuK(), q, k, v, outView, lse);
      DeviceTensor dout = random(setup.queries(), setup.shape().heads());
      DeviceTensor dq =
          memory.empty(setup.type(), setup.queries(), (long) setup.shape().heads() * dim);
      DeviceTensor dk =
          memory.empty(setup.type(), setup.keys(), (long) setup.shape().kvHeads() * dim);
      DeviceTensor dv =
          memory.empty(setup.type(), setup.keys(), (long) setup.shape().kvHeads() * dim);
      Attention.backward(
          memory.pack(),
          setup.shape(),
          setup.cuQ(),
          setup.cuK(),
          q,
          k,
          v,
          outView,
          lse,
          HeadView.of(dout, dim),
          HeadView.of(dq, dim),
          HeadView.of(dk, dim),
          HeadView.of(dv, dim));
      // The gradient of a score is the difference of two scaled dot products of size 1; with one
      // key in sight they cancel in full.
      outputs.add("dq", dq, tolerance(2).ofTerms(1));
      outputs.add("dk", dk, tolerance(2).ofTerms(1));
      outputs.add("dv", dv, tolerance(2));
    }

    /**
     * In bf16 a pack may round probabilities (and, backward, the gradient of scores) before the
     * second product.
     */
    private Tolerance tolerance(int inner) {
      long terms = (long) setup.keys() + setup.shape().headDim();
      Tolerance tolerance = Tolerance.rounded(setup.type(), 1).plus(Tolerance.sum(terms));
      for (int i = 0; i < inner && setup.type() == DType.BF16; i++) {
        tolerance = tolerance.plus(Tolerance.intermediate(DType.BF16));
      }
      return tolerance;
    }
  }
}
