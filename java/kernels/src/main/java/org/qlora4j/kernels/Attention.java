// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_attention_backward_params;
import org.qlora4j.kernels.abi.q4j_attention_forward_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * Causal attention over several sequences with grouped heads. Sequence s has queries {@code cuQ[s]}
 * to {@code cuQ[s + 1]} and keys {@code cuK[s]} to {@code cuK[s + 1]} of the token axes; its query
 * i sees keys {@code j <= i + (keys - queries)}. So a decode step against a cache is one query and
 * as many keys as the cache holds.
 */
public final class Attention {
  private Attention() {}

  /**
   * What one attention computes.
   *
   * @param heads query heads
   * @param kvHeads key and value heads; query head h reads {@code h / (heads / kvHeads)}
   * @param headDim size of a head, a multiple of 8, at most 256
   * @param window last keys a query sees, itself included; 0: all
   * @param scale factor on the scores, usually {@code 1 / sqrt(headDim)}
   */
  public record Shape(int heads, int kvHeads, int headDim, int window, float scale) {
    /** Checks the numbers. */
    public Shape {
      if (heads <= 0 || kvHeads <= 0 || heads % kvHeads != 0) {
        throw new IllegalArgumentException(
            "query heads must be a multiple of key/value heads, found "
                + heads
                + " and "
                + kvHeads);
      }
      if (headDim <= 0 || headDim % 8 != 0 || headDim > 256) {
        throw new IllegalArgumentException(
            "head size must be a multiple of 8, at most 256, found " + headDim);
      }
      if (window < 0) {
        throw new IllegalArgumentException("window cannot be negative, found " + window);
      }
    }

    /** Without a window, scaled by {@code 1 / sqrt(headDim)}. */
    public static Shape causal(int heads, int kvHeads, int headDim) {
      return new Shape(heads, kvHeads, headDim, 0, (float) (1 / Math.sqrt(headDim)));
    }
  }

  /**
   * Forward.
   *
   * @param cuQ starts of the sequences on the query axis and its end, ascending from 0
   * @param cuK the same for keys and values
   * @param q queries, F32 or BF16
   * @param k keys of q's type
   * @param v values of q's type
   * @param out receives the result, laid out like q or otherwise
   * @param lse F32 [heads, queries], logarithm of each row's sum of exponentials, kept for the
   *     backward, or null
   */
  public static void forward(
      KernelPack pack,
      Shape shape,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out,
      @Nullable DeviceTensor lse) {
    check(shape, cuQ, cuK, q, k, v, out, lse);
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_attention_forward_params params = fill(pack, frame, shape, cuQ, cuK, q, k, v, out, lse);
      Status.check(
          qlora4j.q4j_attention_forward_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("attention_forward", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_attention_forward(pack.context(), params));
      }
    }
  }

  /**
   * Gradients of {@link #forward}; dq, dk and dv are overwritten.
   *
   * @param out the forward's result
   * @param lse the forward's log-sum-exp
   * @param dout gradient of out
   * @param dq gradient of q
   * @param dk gradient of k
   * @param dv gradient of v
   */
  public static void backward(
      KernelPack pack,
      Shape shape,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out,
      DeviceTensor lse,
      HeadView dout,
      HeadView dq,
      HeadView dk,
      HeadView dv) {
    DType type = check(shape, cuQ, cuK, q, k, v, out, lse);
    long queries = cuQ[cuQ.length - 1];
    long keys = cuK[cuK.length - 1];
    dout.check("dout", type, queries, shape.heads(), shape.headDim());
    dq.check("dq", type, queries, shape.heads(), shape.headDim());
    dk.check("dk", type, keys, shape.kvHeads(), shape.headDim());
    dv.check("dv", type, keys, shape.kvHeads(), shape.headDim());
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_attention_backward_params params =
          frame
              .attentionBackward
              .reserved(0)
              .forward(fill(pack, frame, shape, cuQ, cuK, q, k, v, out, lse))
              .dout(dout.address(pack))
              .dout_token_stride(dout.tokenStride())
              .dout_head_stride(dout.headStride())
              .dq(dq.address(pack))
              .dq_token_stride(dq.tokenStride())
              .dq_head_stride(dq.headStride())
              .dk(dk.address(pack))
              .dk_token_stride(dk.tokenStride())
              .dk_head_stride(dk.headStride())
              .dv(dv.address(pack))
              .dv_token_stride(dv.tokenStride())
              .dv_head_stride(dv.headStride())
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(
          qlora4j.q4j_attention_backward_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("attention_backward", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_attention_backward(pack.context(), params));
      }
    }
  }

  private static DType check(
      Shape shape,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out,
      @Nullable DeviceTensor lse) {
    DType type = Checks.activation("q", q.base());
    if (cuQ.length == 0 || cuQ.length != cuK.length) {
      throw new IllegalArgumentException(
          "cuQ and cuK must have one entry more than there are sequences, found "
              + cuQ.length
              + " and "
              + cuK.length);
    }
    ascending("cuQ", cuQ);
    ascending("cuK", cuK);
    long queries = cuQ[cuQ.length - 1];
    long keys = cuK[cuK.length - 1];
    q.check("q", type, queries, shape.heads(), shape.headDim());
    k.check("k", type, keys, shape.kvHeads(), shape.headDim());
    v.check("v", type, keys, shape.kvHeads(), shape.headDim());
    out.check("out", type, queries, shape.heads(), shape.headDim());
    if (lse != null) {
      Checks.vector("lse", lse, DType.F32, shape.heads() * queries);
    }
    return type;
  }

  private static void ascending(String name, int[] cu) {
    for (int i = 0; i < cu.length; i++) {
      if (i == 0 ? cu[0] != 0 : cu[i] < cu[i - 1]) {
        throw new IllegalArgumentException(
            name + " must ascend from 0, found " + Arrays.toString(cu));
      }
    }
  }

  private static int longest(int[] cu) {
    int longest = 0;
    for (int i = 1; i < cu.length; i++) {
      longest = Math.max(longest, cu[i] - cu[i - 1]);
    }
    return longest;
  }

  private static q4j_attention_forward_params fill(
      KernelPack pack,
      Frame frame,
      Shape shape,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out,
      @Nullable DeviceTensor lse) {
    return frame
        .attentionForward
        .dtype(q.base().dtype().code())
        .heads(shape.heads())
        .kv_heads(shape.kvHeads())
        .head_dim(shape.headDim())
        .window(shape.window())
        .sequences(cuQ.length - 1)
        .max_q(longest(cuQ))
        .max_k(longest(cuK))
        .scale(shape.scale())
        .cu_q(frame.integers(cuQ))
        .cu_k(frame.secondIntegers(cuK))
        .q(q.address(pack))
        .q_token_stride(q.tokenStride())
        .q_head_stride(q.headStride())
        .k(k.address(pack))
        .k_token_stride(k.tokenStride())
        .k_head_stride(k.headStride())
        .v(v.address(pack))
        .v_token_stride(v.tokenStride())
        .v_head_stride(v.headStride())
        .out(out.address(pack))
        .out_token_stride(out.tokenStride())
        .out_head_stride(out.headStride())
        .lse(pack.address(lse))
        .workspace(DeviceAddress.NULL)
        .workspace_bytes(0);
  }
}
