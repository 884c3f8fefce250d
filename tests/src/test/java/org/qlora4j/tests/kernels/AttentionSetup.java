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
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/** One attention that tests compute: its shape, its sequences, and how its tensors lie. */
record AttentionSetup(DType type, Attention.Shape shape, int[] cuQ, int[] cuK, boolean fused) {
  private static final long SEED = 4180;

  /** Several sequences, grouped heads, windows, caches, fused and separate tensors. */
  static List<AttentionSetup> all() {
    List<AttentionSetup> setups = new ArrayList<>();
    int[][] lengths = {{0}, {0, 1}, {0, 7}, {0, 15, 16, 33}, {0, 0, 31, 31, 96}, {0, 64, 129}};
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (int[] cu : lengths) {
        setups.add(new AttentionSetup(type, Attention.Shape.causal(2, 2, 16), cu, cu, false));
        setups.add(new AttentionSetup(type, Attention.Shape.causal(6, 2, 40), cu, cu, true));
        setups.add(new AttentionSetup(type, new Attention.Shape(4, 1, 64, 5, 0.2f), cu, cu, false));
      }
      setups.add(
          new AttentionSetup(
              type, Attention.Shape.causal(2, 1, 8), new int[] {0, 17}, new int[] {0, 17}, false));
      setups.add(
          new AttentionSetup(
              type,
              Attention.Shape.causal(2, 1, 128),
              new int[] {0, 65, 130},
              new int[] {0, 65, 130},
              true));
      setups.add(
          new AttentionSetup(
              type,
              Attention.Shape.causal(1, 1, 256),
              new int[] {0, 20},
              new int[] {0, 20},
              false));
      setups.add(
          new AttentionSetup(
              type,
              Attention.Shape.causal(4, 2, 64),
              new int[] {0, 1, 2},
              new int[] {0, 100, 133},
              false));
      setups.add(
          new AttentionSetup(
              type,
              Attention.Shape.causal(4, 2, 64),
              new int[] {0, 3, 10},
              new int[] {0, 40, 47},
              false));
      setups.add(
          new AttentionSetup(
              type,
              new Attention.Shape(4, 2, 64, 16, 0.125f),
              new int[] {0, 1, 6},
              new int[] {0, 100, 133},
              false));
      // More queries than keys: the first ones see nothing.
      setups.add(
          new AttentionSetup(
              type, Attention.Shape.causal(2, 2, 16), new int[] {0, 9}, new int[] {0, 4}, false));
      setups.add(
          new AttentionSetup(
              type,
              Attention.Shape.causal(4, 4, 64),
              new int[] {0, 515},
              new int[] {0, 515},
              false));
    }
    return setups;
  }

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

  /**
   * In bf16 a pack may round probabilities (and, backward, the gradient of scores) before the
   * second product.
   */
  Tolerance tolerance(int inner) {
    long terms = (long) keys() + shape.headDim();
    Tolerance tolerance = Tolerance.rounded(type, 1).plus(Tolerance.sum(terms));
    for (int i = 0; i < inner && type == DType.BF16; i++) {
      tolerance = tolerance.plus(Tolerance.intermediate(DType.BF16));
    }
    return tolerance;
  }

  /** Inputs, the output, and the gradient that comes in. */
  static final class Tensors {
    private final AttentionSetup setup;
    private final DeviceMemory memory;
    private final Randoms random;
    final HeadView q;
    final HeadView k;
    final HeadView v;
    final DeviceTensor out;
    final DeviceTensor lse;

    Tensors(AttentionSetup setup, DeviceMemory memory) {
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

    /** A random gradient of the output. */
    DeviceTensor dout() {
      return random(setup.queries(), setup.shape().heads());
    }

    /** Memory for the gradient of the queries. */
    DeviceTensor queries() {
      return memory.empty(
          setup.type(), setup.queries(), (long) setup.shape().heads() * setup.shape().headDim());
    }

    /** Memory for the gradient of the keys or values. */
    DeviceTensor keys() {
      return memory.empty(
          setup.type(), setup.keys(), (long) setup.shape().kvHeads() * setup.shape().headDim());
    }

    HeadView heads(DeviceTensor tensor) {
      return HeadView.of(tensor, setup.shape().headDim());
    }
  }
}
