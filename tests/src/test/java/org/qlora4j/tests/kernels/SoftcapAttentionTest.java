// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicContainer;
import org.junit.jupiter.api.DynamicNode;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tensor.SoftcapAttention;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.Comparison;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.Tolerance;

/**
 * Attention with capped scores, forward and backward, against its definition in double precision,
 * on the cases of {@link AttentionParityTest}, in the memory of the CPU and of a GPU where there is
 * one.
 *
 * <p>The tolerance is that of attention without a cap, whose scores are larger; f32 throughout, so
 * nothing is rounded to bf16 before the result.
 */
class SoftcapAttentionTest {
  /** Of the size of the scores, so that the cap bends most of them. */
  private static final float CAP = 1.5f;

  @TestFactory
  Stream<DynamicNode> everyDevice() {
    return Stream.of(Packs.REFERENCE, "cuda")
        .map(
            name ->
                Packs.opens(name)
                    ? DynamicContainer.dynamicContainer(name, tests(Packs.open(name)))
                    : DynamicTest.dynamicTest(name, () -> Packs.open(name)));
  }

  private static Stream<DynamicTest> tests(KernelPack pack) {
    return Stream.concat(AttentionSetup.all().stream(), chunked())
        .map(setup -> DynamicTest.dynamicTest(setup.title(), () -> check(pack, setup)));
  }

  /** Sequences of more scores than one chunk has, with and without a window. */
  private static Stream<AttentionSetup> chunked() {
    int[] cu = {0, 3, 1203};
    return Stream.of(
        new AttentionSetup(DType.F32, Attention.Shape.causal(8, 4, 8), cu, cu, false),
        new AttentionSetup(DType.F32, new Attention.Shape(8, 4, 8, 300, 0.3f), cu, cu, false));
  }

  private static void check(KernelPack pack, AttentionSetup setup) {
    Packs.requireLibtorch(pack);
    try (DeviceMemory memory = new DeviceMemory(pack);
        TensorArena arena = new TensorArena(pack)) {
      AttentionSetup.Tensors t = new AttentionSetup.Tensors(setup, memory);
      DeviceTensor dout = t.dout();
      DeviceTensor dq = t.queries();
      DeviceTensor dk = t.keys();
      DeviceTensor dv = t.keys();
      Attention.Shape shape = setup.shape();
      int[] cuQ = setup.cuQ();
      int[] cuK = setup.cuK();
      SoftcapAttention.forward(arena, shape, CAP, cuQ, cuK, t.q, t.k, t.v, t.heads(t.out));
      SoftcapAttention.backward(
          arena,
          shape,
          CAP,
          cuQ,
          cuK,
          t.q,
          t.k,
          t.v,
          t.heads(dout),
          t.heads(dq),
          t.heads(dk),
          t.heads(dv));
      Definition expected = new Definition(setup, t, dout);
      Tolerance tolerance =
          Tolerance.rounded(setup.type(), 1)
              .plus(Tolerance.sum((long) setup.keys() + shape.headDim()));
      compare(setup, "out", expected.out, t.out, tolerance);
      compare(setup, "dq", expected.dq, dq, tolerance);
      compare(setup, "dk", expected.dk, dk, tolerance);
      compare(setup, "dv", expected.dv, dv, tolerance);
      memory.checkGuards();
    }
  }

  private static void compare(
      AttentionSetup setup, String name, float[] expected, DeviceTensor actual, Tolerance bound) {
    Comparison.of(name, expected, actual.toFloats(), bound, 1).orFail(setup.title());
  }

  /** The formulas, one query of one head at a time. */
  private static final class Definition {
    final float[] out;
    final float[] dq;
    final float[] dk;
    final float[] dv;
    private final int dim;

    Definition(AttentionSetup setup, AttentionSetup.Tensors t, DeviceTensor dout) {
      Attention.Shape shape = setup.shape();
      dim = shape.headDim();
      float[] q = t.q.base().toFloats();
      float[] k = t.k.base().toFloats();
      float[] v = t.v.base().toFloats();
      float[] dy = dout.toFloats();
      out = new float[setup.queries() * shape.heads() * dim];
      dq = new float[out.length];
      double[] sumK = new double[setup.keys() * shape.kvHeads() * dim];
      double[] sumV = new double[sumK.length];
      int group = shape.heads() / shape.kvHeads();
      for (int s = 0; s + 1 < setup.cuQ().length; s++) {
        int queries = setup.cuQ()[s + 1] - setup.cuQ()[s];
        int keys = setup.cuK()[s + 1] - setup.cuK()[s];
        for (int i = 0; i < queries; i++) {
          int last = i + keys - queries;
          int first = shape.window() == 0 ? 0 : Math.max(0, last - shape.window() + 1);
          for (int h = 0; h < shape.heads() && last >= 0; h++) {
            int query = setup.cuQ()[s] + i;
            int atQ = at(t.q, query, h);
            int atOut = (query * shape.heads() + h) * dim;
            double[] tanh = new double[last + 1];
            double[] p = new double[last + 1];
            double sum = 0;
            for (int j = first; j <= last; j++) {
              int atK = at(t.k, setup.cuK()[s] + j, h / group);
              tanh[j] = Math.tanh(dot(q, atQ, k, atK) * shape.scale() / CAP);
              p[j] = Math.exp(CAP * tanh[j]);
              sum += p[j];
            }
            double[] mixed = new double[dim];
            for (int j = first; j <= last; j++) {
              p[j] /= sum;
              add(mixed, 0, p[j], v, at(t.v, setup.cuK()[s] + j, h / group));
            }
            double weighted = 0;
            for (int d = 0; d < dim; d++) {
              out[atOut + d] = (float) mixed[d];
              weighted += mixed[d] * dy[atOut + d];
            }
            double[] gradient = new double[dim];
            for (int j = first; j <= last; j++) {
              int key = setup.cuK()[s] + j;
              int atSum = (key * shape.kvHeads() + h / group) * dim;
              double dp = dot(dy, atOut, v, at(t.v, key, h / group));
              double dz = shape.scale() * (1 - tanh[j] * tanh[j]) * p[j] * (dp - weighted);
              add(gradient, 0, dz, k, at(t.k, key, h / group));
              add(sumK, atSum, dz, q, atQ);
              add(sumV, atSum, p[j], dy, atOut);
            }
            for (int d = 0; d < dim; d++) {
              dq[atOut + d] = (float) gradient[d];
            }
          }
        }
      }
      dk = floats(sumK);
      dv = floats(sumV);
    }

    private static int at(HeadView x, int token, int head) {
      return (int) (x.elementOffset() + token * x.tokenStride() + head * x.headStride());
    }

    private double dot(float[] a, int atA, float[] b, int atB) {
      double sum = 0;
      for (int d = 0; d < dim; d++) {
        sum += (double) a[atA + d] * b[atB + d];
      }
      return sum;
    }

    private void add(double[] target, int at, double factor, float[] x, int atX) {
      for (int d = 0; d < dim; d++) {
        target[at + d] += factor * x[atX + d];
      }
    }

    private static float[] floats(double[] values) {
      float[] rounded = new float[values.length];
      for (int i = 0; i < values.length; i++) {
        rounded[i] = (float) values[i];
      }
      return rounded;
    }
  }
}
