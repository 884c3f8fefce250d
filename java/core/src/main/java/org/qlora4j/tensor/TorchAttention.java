// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tensor;

import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AutoGradMode;
import org.bytedeco.pytorch.BoolOptional;
import org.bytedeco.pytorch.DoubleOptional;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.HeadView;

/**
 * Causal attention by libtorch's {@code scaled_dot_product_attention}, which chooses between flash,
 * cuDNN, memory-efficient and plain attention by itself. Means the same as {@link Attention}, for
 * packs that leave that operator out; on a GPU that is the usual case.
 *
 * <p>The backward needs q, k and v alone. It runs the forward again, under autograd on detached
 * views, and takes the gradients. Keeping autograd's graph from the forward instead would save that
 * forward, a few hundredths of a step, but hold its output a second time for every block that waits
 * for its backward, in memory that nobody frees but a garbage collector or an object to close.
 *
 * <p>Sequences are computed one after the other, as views into the tensors of the whole batch, so
 * nothing is padded and nothing is masked that flash attention would compute.
 */
public final class TorchAttention {

  private TorchAttention() {}

  /**
   * The part of one sequence in which something is visible: queries and keys that see nothing and
   * are seen by none are left out, because softmax over nothing is no number.
   *
   * @param query first query, on the batch's axis
   * @param key first key, on the batch's axis
   */
  private record Part(int query, int queries, int key, int keys, int window) {

    /** Which of a sequence's queries i and keys j meet: j <= i + keys - queries, in the window. */
    static Part of(int[] cuQ, int[] cuK, int sequence, int window) {
      int queries = cuQ[sequence + 1] - cuQ[sequence];
      int keys = cuK[sequence + 1] - cuK[sequence];
      int blind = Math.max(0, queries - keys);
      int unseen = window == 0 ? 0 : Math.max(0, keys - (queries - blind) - window + 1);
      return new Part(
          cuQ[sequence] + blind, queries - blind, cuK[sequence] + unseen, keys - unseen, window);
    }

    boolean isEmpty() {
      return queries == 0 || keys == 0;
    }

    /** libtorch aligns its causal mask with the first key, this attention with the last one. */
    boolean isCausal() {
      return queries == keys && queries > 1 && !isWindowed();
    }

    /** A single query sees all keys that are left. */
    boolean needsMask() {
      return queries > 1 && !isCausal();
    }

    private boolean isWindowed() {
      return window > 0 && window < keys;
    }
  }

  /**
   * Forward; see {@link Attention#forward} for the parameters. Keeps no graph.
   *
   * @param out overwritten; zeros where a query sees no key
   */
  public static void forward(
      Attention.Shape shape,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out) {
    check(shape, cuQ, cuK, q, k, v, out);
    if (out.base().pack().isDryRun()) {
      return;
    }
    int dim = shape.headDim();
    for (int s = 0; s + 1 < cuQ.length; s++) {
      Part part = Part.of(cuQ, cuK, s, shape.window());
      try (PointerScope scope = new PointerScope();
          AutoGradMode off = new AutoGradMode(false)) {
        zeroAround(out, cuQ[s], cuQ[s + 1], part.query(), part.isEmpty(), shape.heads(), dim);
        if (!part.isEmpty()) {
          Tensor result =
              attend(
                  shape,
                  part,
                  TorchBridge.heads(q, part.query(), part.queries(), shape.heads(), dim),
                  TorchBridge.heads(k, part.key(), part.keys(), shape.kvHeads(), dim),
                  TorchBridge.heads(v, part.key(), part.keys(), shape.kvHeads(), dim));
          TorchBridge.heads(out, part.query(), part.queries(), shape.heads(), dim).copy_(result);
        }
      }
    }
  }

  /**
   * Gradients of {@link #forward}; see {@link Attention#backward} for the parameters.
   *
   * @param dq overwritten, like dk and dv
   */
  public static void backward(
      Attention.Shape shape,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView dout,
      HeadView dq,
      HeadView dk,
      HeadView dv) {
    check(shape, cuQ, cuK, q, k, v, dout);
    check(shape, cuQ, cuK, dq, dk, dv, dout);
    if (dq.base().pack().isDryRun()) {
      return;
    }
    int dim = shape.headDim();
    for (int s = 0; s + 1 < cuQ.length; s++) {
      Part part = Part.of(cuQ, cuK, s, shape.window());
      try (PointerScope scope = new PointerScope();
          AutoGradMode on = new AutoGradMode(true)) {
        boolean empty = part.isEmpty();
        zeroAround(dq, cuQ[s], cuQ[s + 1], part.query(), empty, shape.heads(), dim);
        zeroAround(dk, cuK[s], cuK[s + 1], part.key(), empty, shape.kvHeads(), dim);
        zeroAround(dv, cuK[s], cuK[s + 1], part.key(), empty, shape.kvHeads(), dim);
        if (empty) {
          continue;
        }
        Tensor queries = TorchBridge.heads(q, part.query(), part.queries(), shape.heads(), dim);
        Tensor keys = TorchBridge.heads(k, part.key(), part.keys(), shape.kvHeads(), dim);
        Tensor values = TorchBridge.heads(v, part.key(), part.keys(), shape.kvHeads(), dim);
        Tensor result =
            attend(
                shape,
                part,
                queries.requires_grad_(true),
                keys.requires_grad_(true),
                values.requires_grad_(true));
        TensorVector gradients =
            torch.grad(
                new TensorVector(result),
                new TensorVector(queries, keys, values),
                new TensorVector(
                    TorchBridge.heads(dout, part.query(), part.queries(), shape.heads(), dim)),
                new BoolOptional(),
                false,
                false);
        TorchBridge.heads(dq, part.query(), part.queries(), shape.heads(), dim)
            .copy_(gradients.get(0));
        TorchBridge.heads(dk, part.key(), part.keys(), shape.kvHeads(), dim)
            .copy_(gradients.get(1));
        TorchBridge.heads(dv, part.key(), part.keys(), shape.kvHeads(), dim)
            .copy_(gradients.get(2));
      }
    }
  }

  /**
   * Attention of one part: q [1, heads, queries, headDim], k and v [1, kvHeads, keys, headDim], the
   * result like q.
   */
  private static Tensor attend(Attention.Shape shape, Part part, Tensor q, Tensor k, Tensor v) {
    TensorOptional mask =
        part.needsMask() ? new TensorOptional(mask(part, q)) : new TensorOptional();
    boolean grouped = shape.kvHeads() < shape.heads();
    // Flash and cuDNN attention share key heads among query heads by themselves, but take neither
    // f32 nor this mask. What takes those (memory-efficient attention) needs a key head for each.
    boolean spread = grouped && (part.needsMask() || q.scalar_type().intern() == ScalarType.Float);
    if (spread) {
      long group = shape.heads() / shape.kvHeads();
      k = k.repeat_interleave(group, new LongOptional(1), new LongOptional());
      v = v.repeat_interleave(group, new LongOptional(1), new LongOptional());
    }
    return torch.scaled_dot_product_attention(
        q, k, v, mask, 0.0, part.isCausal(), new DoubleOptional(shape.scale()), grouped && !spread);
  }

  /**
   * True where query i sees key j: on and below the last diagonal, as far as the window reaches.
   */
  private static Tensor mask(Part part, Tensor like) {
    long diagonal = (long) part.keys() - part.queries();
    Tensor visible =
        torch
            .ones(
                new long[] {part.queries(), part.keys()},
                like.options().dtype(new ScalarTypeOptional(ScalarType.Bool)))
            .tril(diagonal);
    return part.window() == 0 ? visible : visible.triu(diagonal - part.window() + 1);
  }

  /**
   * Zeros for the tokens from {@code first} on that lie before the part; for all of an empty one.
   */
  private static void zeroAround(
      HeadView view, int first, int end, int partFirst, boolean empty, int heads, int dim) {
    int tokens = (empty ? end : partFirst) - first;
    if (tokens > 0) {
      TorchBridge.heads(view, first, tokens, heads, dim).zero_();
    }
  }

  static void check(
      Attention.Shape shape,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out) {
    if (cuQ.length == 0 || cuQ.length != cuK.length) {
      throw new IllegalArgumentException(
          "cuQ and cuK must have one entry more than there are sequences, found "
              + cuQ.length
              + " and "
              + cuK.length);
    }
    DType type = q.base().dtype();
    long queries = cuQ[cuQ.length - 1];
    long keys = cuK[cuK.length - 1];
    q.check("q", type, queries, shape.heads(), shape.headDim());
    k.check("k", type, keys, shape.kvHeads(), shape.headDim());
    v.check("v", type, keys, shape.kvHeads(), shape.headDim());
    out.check("out", type, queries, shape.heads(), shape.headDim());
  }
}
