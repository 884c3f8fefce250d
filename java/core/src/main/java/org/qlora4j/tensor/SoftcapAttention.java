// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tensor;

import java.util.function.Consumer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
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
 * <p>It is made of libtorch's products and elementwise functions on memory of the arena, in f32
 * throughout; results are rounded once. Queries are taken in chunks, so that a sequence of any
 * length has three matrices of at most {@link #SCORES} scores at a time. Gradients start from q, k
 * and v alone and compute the scores again.
 */
public final class SoftcapAttention {

  /** Scores of all heads that a chunk of queries has at most, unless one query has more: 16 MiB. */
  private static final long SCORES = 4L << 20;

  private final TensorArena arena;
  private final Attention.Shape shape;
  private final float cap;
  private final HeadView q;
  private final HeadView k;
  private final HeadView v;
  private final boolean dryRun;

  private SoftcapAttention(
      TensorArena arena, Attention.Shape shape, float cap, HeadView q, HeadView k, HeadView v) {
    this.arena = arena;
    this.shape = shape;
    this.cap = cap;
    this.q = q;
    this.k = k;
    this.v = v;
    this.dryRun = q.base().pack().isDryRun();
  }

  /** One sequence: its first query and key on the axes of the batch, and how many it has. */
  private record Sequence(int query, int queries, int key, int keys) {

    static Sequence of(int[] cuQ, int[] cuK, int s) {
      return new Sequence(cuQ[s], cuQ[s + 1] - cuQ[s], cuK[s], cuK[s + 1] - cuK[s]);
    }

    /** Queries before the first key: they see nothing, and softmax over nothing is no number. */
    int blind() {
      return Math.max(0, queries - keys);
    }
  }

  /**
   * Some queries of a sequence and the keys that any of them sees.
   *
   * @param query first query, on the batch's axis
   * @param key first key, within the sequence
   * @param batchKey the same key on the batch's axis
   * @param diagonal query i of the chunk sees keys of the chunk up to i + diagonal
   */
  private record Chunk(int query, int queries, int key, int batchKey, int keys, int diagonal) {}

  /** Memory of what {@link Scores} has. */
  private record Memory(
      DeviceTensor q,
      DeviceTensor k,
      DeviceTensor v,
      DeviceTensor tanh,
      DeviceTensor p,
      DeviceTensor spare) {}

  /**
   * What a chunk computes with, f32.
   *
   * @param q [kv heads, group * queries, d]
   * @param k [kv heads, keys, d], like v
   * @param tanh t, [kv heads, group * queries, keys], like p and spare
   */
  private record Scores(Tensor q, Tensor k, Tensor v, Tensor tanh, Tensor p, Tensor spare) {}

  /**
   * Forward; see {@link Attention#forward} for the parameters.
   *
   * @param arena for scratch memory, which is free again when this returns
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
    SoftcapAttention attention = new SoftcapAttention(arena, shape, cap, q, k, v);
    for (int s = 0; s + 1 < cuQ.length; s++) {
      Sequence sequence = Sequence.of(cuQ, cuK, s);
      attention.zeroBlind(sequence, out);
      attention.chunks(sequence, chunk -> attention.forward(chunk, out));
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
    SoftcapAttention attention = new SoftcapAttention(arena, shape, cap, q, k, v);
    for (int s = 0; s + 1 < cuQ.length; s++) {
      Sequence sequence = Sequence.of(cuQ, cuK, s);
      attention.zeroBlind(sequence, dq);
      var mark = arena.mark();
      DeviceTensor sumK = attention.zeroSum(sequence);
      DeviceTensor sumV = attention.zeroSum(sequence);
      attention.chunks(sequence, chunk -> attention.backward(chunk, dout, dq, sumK, sumV));
      attention.copySum(sequence, sumK, dk);
      attention.copySum(sequence, sumV, dv);
      arena.release(mark);
    }
  }

  private void forward(Chunk chunk, HeadView out) {
    Memory memory = memory(chunk);
    if (dryRun) {
      return;
    }
    Scores scores = scores(chunk, memory);
    // The queries are done with.
    Tensor mixed = torch.bmm_out(scores.q(), scores.p(), scores.v());
    queries(out, chunk).copy_(byHead(mixed, chunk));
  }

  private void backward(
      Chunk chunk, HeadView dout, HeadView dq, DeviceTensor sumK, DeviceTensor sumV) {
    Memory memory = memory(chunk);
    DeviceTensor gradient = queryMemory(chunk);
    if (dryRun) {
      return;
    }
    Scores scores = scores(chunk, memory);
    Tensor dmixed = TorchBridge.view(gradient);
    byHead(dmixed, chunk).copy_(queries(dout, chunk));
    keys(sumV, chunk).baddbmm_(scores.p().transpose(1, 2), dmixed);
    // From dp to dz in place.
    Tensor d = torch.bmm_out(scores.spare(), dmixed, scores.v().transpose(1, 2));
    d.mul_(scores.p());
    Tensor rowSum = d.sum(new long[] {2}, true, new ScalarTypeOptional());
    d.sub_(scores.p().mul_(rowSum));
    torch.tanh_backward_out(d, d, scores.tanh());
    d.mul_(new Scalar(shape.scale()));
    keys(sumK, chunk).baddbmm_(d.transpose(1, 2), scores.q());
    queries(dq, chunk).copy_(byHead(torch.bmm_out(dmixed, d, scores.k()), chunk));
  }

  private Memory memory(Chunk chunk) {
    return new Memory(
        queryMemory(chunk),
        f32(shape.kvHeads(), chunk.keys(), shape.headDim()),
        f32(shape.kvHeads(), chunk.keys(), shape.headDim()),
        f32(shape.kvHeads(), group() * chunk.queries(), chunk.keys()),
        f32(shape.kvHeads(), group() * chunk.queries(), chunk.keys()),
        f32(shape.kvHeads(), group() * chunk.queries(), chunk.keys()));
  }

  /** The scores of a chunk and what they are made of. */
  private Scores scores(Chunk chunk, Memory memory) {
    Scores scores =
        new Scores(
            TorchBridge.view(memory.q()),
            TorchBridge.view(memory.k()),
            TorchBridge.view(memory.v()),
            TorchBridge.view(memory.tanh()),
            TorchBridge.view(memory.p()),
            TorchBridge.view(memory.spare()));
    byHead(scores.q(), chunk).copy_(queries(q, chunk));
    scores.k().copy_(keys(k, chunk));
    scores.v().copy_(keys(v, chunk));
    torch
        .bmm_out(scores.tanh(), scores.q(), scores.k().transpose(1, 2))
        .mul_(new Scalar(shape.scale() / cap))
        .tanh_();
    torch.mul_out(scores.spare(), scores.tanh(), new Scalar(cap));
    scores
        .spare()
        .view(shape.heads(), chunk.queries(), chunk.keys())
        .masked_fill_(unseen(chunk, scores.q()), new Scalar(Double.NEGATIVE_INFINITY));
    torch.softmax_out(scores.p(), scores.spare(), 2);
    return scores;
  }

  /** True where a query does not see a key, [queries, keys]. */
  private Tensor unseen(Chunk chunk, Tensor like) {
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

  /** Runs the work on every chunk, and frees its memory. */
  private void chunks(Sequence sequence, Consumer<Chunk> work) {
    int most = (int) Math.max(1, SCORES / Math.max(1, (long) shape.heads() * sequence.keys()));
    int offset = sequence.keys() - sequence.queries();
    for (int first = sequence.blind(); first < sequence.queries(); first += most) {
      int count = Math.min(most, sequence.queries() - first);
      int start = shape.window() == 0 ? 0 : Math.max(0, first + offset - shape.window() + 1);
      Chunk chunk =
          new Chunk(
              sequence.query() + first,
              count,
              start,
              sequence.key() + start,
              first + count + offset - start,
              first + offset - start);
      var mark = arena.mark();
      try (PointerScope scope = new PointerScope()) {
        work.accept(chunk);
      }
      arena.release(mark);
    }
  }

  private void zeroBlind(Sequence sequence, HeadView x) {
    if (sequence.blind() > 0 && !dryRun) {
      try (PointerScope scope = new PointerScope()) {
        TorchBridge.heads(x, sequence.query(), sequence.blind(), shape.heads(), shape.headDim())
            .zero_();
      }
    }
  }

  /** Memory for the sum of a sequence's key or value gradients, zeros. */
  private DeviceTensor zeroSum(Sequence sequence) {
    DeviceTensor sum = f32(shape.kvHeads(), sequence.keys(), shape.headDim());
    if (!dryRun) {
      sum.zero();
    }
    return sum;
  }

  private void copySum(Sequence sequence, DeviceTensor sum, HeadView target) {
    if (sequence.keys() > 0 && !dryRun) {
      try (PointerScope scope = new PointerScope()) {
        TorchBridge.heads(target, sequence.key(), sequence.keys(), shape.kvHeads(), shape.headDim())
            .copy_(TorchBridge.view(sum).unsqueeze(0));
      }
    }
  }

  /** The chunk's part of a sequence's sum, [kv heads, keys, d]. */
  private static Tensor keys(DeviceTensor sum, Chunk chunk) {
    return TorchBridge.view(sum).narrow(1, chunk.key(), chunk.keys());
  }

  /** The chunk's keys or values, [kv heads, keys, d]. */
  private Tensor keys(HeadView x, Chunk chunk) {
    return TorchBridge.heads(x, chunk.batchKey(), chunk.keys(), shape.kvHeads(), shape.headDim())
        .squeeze(0);
  }

  /** The chunk's queries, outputs or their gradients, [1, heads, queries, d]. */
  private Tensor queries(HeadView x, Chunk chunk) {
    return TorchBridge.heads(x, chunk.query(), chunk.queries(), shape.heads(), shape.headDim());
  }

  /** [kv heads, group * queries, d] as {@link #queries} has it. */
  private Tensor byHead(Tensor grouped, Chunk chunk) {
    return grouped.view(1, shape.heads(), chunk.queries(), shape.headDim());
  }

  private DeviceTensor queryMemory(Chunk chunk) {
    return f32(shape.kvHeads(), group() * chunk.queries(), shape.headDim());
  }

  private long group() {
    return shape.heads() / shape.kvHeads();
  }

  private DeviceTensor f32(long... dimensions) {
    return arena.allocate(DType.F32, dimensions);
  }
}
