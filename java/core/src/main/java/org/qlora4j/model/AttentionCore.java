// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tensor.TorchAttention;

/**
 * The attention between the projections: the pack's operator where it has one, else libtorch's. The
 * one place where that is decided.
 */
final class AttentionCore {

  private final Attention.Shape shape;
  private final boolean forwardByPack;
  private final boolean backwardByPack;

  private AttentionCore(Attention.Shape shape, boolean forwardByPack, boolean backwardByPack) {
    this.shape = shape;
    this.forwardByPack = forwardByPack;
    this.backwardByPack = backwardByPack;
  }

  /** The core for models on {@code pack}. */
  static AttentionCore of(KernelPack pack, Attention.Shape shape) {
    boolean forward = pack.supports("attention_forward");
    // The pack's backward starts from what its forward left.
    return new AttentionCore(shape, forward, forward && pack.supports("attention_backward"));
  }

  /** libtorch's, whatever the pack has. */
  static AttentionCore byLibtorch(Attention.Shape shape) {
    return new AttentionCore(shape, false, false);
  }

  /**
   * Whether the backward needs the forward's log-sum-exp, f32 [heads, queries], beside q, k, v and
   * out; libtorch's does not.
   */
  boolean needsLse() {
    return backwardByPack;
  }

  /**
   * Forward; see {@link Attention#forward} for the parameters.
   *
   * @param lse where {@link #needsLse}, else null
   */
  void forward(
      Pass pass,
      int[] cuQ,
      int[] cuK,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out,
      @Nullable DeviceTensor lse) {
    if (!forwardByPack) {
      TorchAttention.forward(shape, cuQ, cuK, q, k, v, out);
      return;
    }
    Attention.forward(pass.pack(), shape, cuQ, cuK, q, k, v, out, lse);
  }

  /** Gradients of {@link #forward} over sequences without a cache; dq, dk, dv are overwritten. */
  void backward(
      Pass pass,
      int[] cu,
      HeadView q,
      HeadView k,
      HeadView v,
      HeadView out,
      @Nullable DeviceTensor lse,
      HeadView dout,
      HeadView dq,
      HeadView dk,
      HeadView dv) {
    if (backwardByPack) {
      Attention.backward(
          pass.pack(), shape, cu, cu, q, k, v, out, Objects.requireNonNull(lse), dout, dq, dk, dv);
    } else {
      TorchAttention.backward(shape, cu, cu, q, k, v, dout, dq, dk, dv);
    }
  }
}
