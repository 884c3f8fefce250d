// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tensor;

import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.HeadView;

/**
 * Causal attention whose scores are capped before the softmax (Gemma 2), which neither the packs'
 * attention nor libtorch's {@code scaled_dot_product_attention} has:
 *
 * <pre>
 * t = tanh(scale / cap * q k^T)      p = softmax(cap * t, masked)      out = p v
 * dv = p^T dout      dp = dout v^T      ds = p * (dp - sum(p * dp))      dz = scale * (1 - t^2) * ds
 * dq = dz k          dk = dz^T q
 * </pre>
 *
 * <p>It is made of libtorch's products and elementwise functions, in f32 throughout; results are
 * rounded once. Queries are taken in chunks, so that scores of a bounded number exist at a time:
 * {@link #SCORES} of each of the at most four matrices, however long the sequence. Gradients start
 * from q, k and v alone and compute the scores again.
 *
 * <p>Memory that libtorch takes for a chunk is counted in a dry run as if it came from the arena.
 */
public final class SoftcapAttention {

  /** Scores of all heads that a chunk of queries has at most, unless a single query has more. */
  private static final long SCORES = 4L << 20;

  private SoftcapAttention() {}

  /** One sequence: its first query and key on the axes of the batch, and how many it has. */
  private record Sequence(int query, int queries, int key, int keys) {}

  /**
   * Some queries of a sequence and the keys that any of them sees.
   *
   * @param query first query, on the batch's axis
   * @param key first key, counted within the sequence
   * @param diagonal query i of the chunk sees keys of the chunk up to i + diagonal
   */
  private record Chunk(int query, int queries, int key, int keys, int diagonal) {}

  /** What a chunk of queries looks at: f32, [kv heads, group * queries, ...]. */
  private record Scores(Tensor q, Tensor k, Tensor v, Tensor tanh, Tensor p) {}

  /** The work on one chunk. */
  private interface Work {
    void run(Chunk chunk);
  }

  /**
   * Forward; see {@link Attention#forward} for the parameters.
   *
   * @param arena where a dry run counts libtorch's memory
   * @param cap above 0
   * @param out overwritten; zeros where a query sees no key
   */
  public static void forward(
      TensorArena arena,
      Attention.Shape shape,
      float cap,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out) {
    TorchAttention.check(shape, cuQ, cuK, q, k, v, out);
    if (out.base().pack().isDryRun()) {
      count(arena, shape, cuQ, cuK, 3);
      return;
    }
    int dim = shape.headDim();
    for (int s = 0; s + 1 < cuQ.length; s++) {
      Sequence sequence = sequence(cuQ, cuK, s);
      zeroBlind(sequence, out, shape.heads(), dim);
      chunks(
          shape,
          sequence,
          chunk -> {
            Scores scores = scores(shape, cap, sequence, chunk, q, k, v);
            Tensor mixed = torch.bmm(scores.p(), scores.v());
            TorchBridge.heads(out, chunk.query(), chunk.queries(), shape.heads(), dim)
                .copy_(mixed.reshape(1, shape.heads(), chunk.queries(), dim));
          });
    }
  }

  /**
   * Gradients of {@link #forward}; see {@link Attention#backward} for the parameters.
   *
   * @param dq overwritten, like dk and dv
   */
  public static void backward(
      TensorArena arena,
      Attention.Shape shape,
      float cap,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView dout,
      HeadView dq,
      HeadView dk,
      HeadView dv) {
    TorchAttention.check(shape, cuQ, cuK, q, k, v, dout);
    TorchAttention.check(shape, cuQ, cuK, dq, dk, dv, dout);
    if (dq.base().pack().isDryRun()) {
      count(arena, shape, cuQ, cuK, 4);
      return;
    }
    int dim = shape.headDim();
    for (int s = 0; s + 1 < cuQ.length; s++) {
      Sequence sequence = sequence(cuQ, cuK, s);
      if (sequence.keys() == 0) {
        zeroBlind(sequence, dq, shape.heads(), dim);
        continue;
      }
      try (PointerScope scope = new PointerScope()) {
        long[] sums = {shape.kvHeads(), sequence.keys(), dim};
        TensorOptions f32 = TorchBridge.options(dq.base().pack(), DType.F32);
        Tensor sumK = torch.empty(sums, f32, null).zero_();
        Tensor sumV = torch.empty(sums, f32, null).zero_();
        zeroBlind(sequence, dq, shape.heads(), dim);
        chunks(
            shape,
            sequence,
            chunk -> {
              Scores scores = scores(shape, cap, sequence, chunk, q, k, v);
              Tensor dmixed = grouped(dout, chunk.query(), chunk.queries(), shape);
              sumV.narrow(1, chunk.key(), chunk.keys())
                  .add_(torch.bmm(scores.p().transpose(1, 2), dmixed));
              // From dp to dz in place.
              Tensor d = torch.bmm(dmixed, scores.v().transpose(1, 2)).mul_(scores.p());
              Tensor rowSum = d.sum(new long[] {2}, true, new ScalarTypeOptional());
              d.sub_(scores.p().mul_(rowSum));
              torch.tanh_backward_out(d, d, scores.tanh());
              d.mul_(new Scalar(shape.scale()));
              TorchBridge.heads(dq, chunk.query(), chunk.queries(), shape.heads(), dim)
                  .copy_(torch.bmm(d, scores.k()).reshape(1, shape.heads(), chunk.queries(), dim));
              sumK.narrow(1, chunk.key(), chunk.keys())
                  .add_(torch.bmm(d.transpose(1, 2), scores.q()));
            });
        TorchBridge.heads(dk, sequence.key(), sequence.keys(), shape.kvHeads(), dim)
            .copy_(sumK.unsqueeze(0));
        TorchBridge.heads(dv, sequence.key(), sequence.keys(), shape.kvHeads(), dim)
            .copy_(sumV.unsqueeze(0));
      }
    }
  }

  private static Sequence sequence(int[] cuQ, int[] cuK, int s) {
    return new Sequence(cuQ[s], cuQ[s + 1] - cuQ[s], cuK[s], cuK[s + 1] - cuK[s]);
  }

  /** Queries before the first key see nothing: softmax over nothing is no number. */
  private static int blind(Sequence sequence) {
    return Math.max(0, sequence.queries() - sequence.keys());
  }

  private static void zeroBlind(Sequence sequence, HeadView x, int heads, int dim) {
    int blind = blind(sequence);
    if (blind > 0) {
      try (PointerScope scope = new PointerScope()) {
        TorchBridge.heads(x, sequence.query(), blind, heads, dim).zero_();
      }
    }
  }

  /** Runs the work on every chunk, each in a scope of its own. */
  private static void chunks(Attention.Shape shape, Sequence sequence, Work work) {
    int most = mostQueries(shape, sequence.keys());
    int offset = sequence.keys() - sequence.queries();
    for (int first = blind(sequence); first < sequence.queries(); first += most) {
      int count = Math.min(most, sequence.queries() - first);
      int end = first + count + offset;
      int start = shape.window() == 0 ? 0 : Math.max(0, first + offset - shape.window() + 1);
      try (PointerScope scope = new PointerScope()) {
        work.run(
            new Chunk(sequence.query() + first, count, start, end - start, first + offset - start));
      }
    }
  }

  private static int mostQueries(Attention.Shape shape, int keys) {
    return (int) Math.max(1, SCORES / Math.max(1, (long) shape.heads() * keys));
  }

  private static Scores scores(
      Attention.Shape shape,
      float cap,
      Sequence sequence,
      Chunk chunk,
      HeadView q,
      HeadView k,
      HeadView v) {
    int firstKey = sequence.key() + chunk.key();
    Tensor queries = grouped(q, chunk.query(), chunk.queries(), shape);
    Tensor keys = keyHeads(k, firstKey, chunk.keys(), shape);
    Tensor values = keyHeads(v, firstKey, chunk.keys(), shape);
    Tensor tanh =
        torch.bmm(queries, keys.transpose(1, 2)).mul_(new Scalar(shape.scale() / cap)).tanh_();
    Tensor capped = tanh.mul(new Scalar(cap));
    capped
        .view(shape.heads(), chunk.queries(), chunk.keys())
        .masked_fill_(hidden(shape, chunk, queries), new Scalar(Double.NEGATIVE_INFINITY));
    return new Scores(queries, keys, values, tanh, torch.softmax(capped, 2));
  }

  /** Query heads by the key head they share, f32 [kv heads, group * queries, d]. */
  private static Tensor grouped(HeadView x, int first, int count, Attention.Shape shape) {
    long group = shape.heads() / shape.kvHeads();
    return TorchBridge.heads(x, first, count, shape.heads(), shape.headDim())
        .to(ScalarType.Float)
        .reshape(shape.kvHeads(), group * count, shape.headDim());
  }

  /** f32 [kv heads, keys, d]. */
  private static Tensor keyHeads(HeadView x, int first, int count, Attention.Shape shape) {
    return TorchBridge.heads(x, first, count, shape.kvHeads(), shape.headDim())
        .to(ScalarType.Float)
        .squeeze(0);
  }

  /** True where a query does not see a key, [queries, keys]. */
  private static Tensor hidden(Attention.Shape shape, Chunk chunk, Tensor like) {
    Tensor visible =
        torch
            .ones(
                new long[] {chunk.queries(), chunk.keys()},
                like.options().dtype(new ScalarTypeOptional(ScalarType.Bool)))
            .tril(chunk.diagonal());
    if (shape.window() > 0) {
      visible = visible.triu((long) chunk.diagonal() - shape.window() + 1);
    }
    return visible.logical_not();
  }

  /**
   * Counts what the largest sequence takes: so many matrices of scores, and q, k, v and their
   * gradients in f32.
   */
  private static void count(
      TensorArena arena, Attention.Shape shape, int[] cuQ, int[] cuK, int matrices) {
    long most = 0;
    for (int s = 0; s + 1 < cuQ.length; s++) {
      Sequence sequence = sequence(cuQ, cuK, s);
      long queries = Math.min(sequence.queries(), mostQueries(shape, sequence.keys()));
      long scores = shape.heads() * queries * sequence.keys();
      long heads = shape.heads() * queries + 2L * shape.kvHeads() * sequence.keys();
      most = Math.max(most, matrices * scores + 2 * heads * shape.headDim());
    }
    var mark = arena.mark();
    arena.allocate(DType.F32, most);
    arena.release(mark);
  }
}
