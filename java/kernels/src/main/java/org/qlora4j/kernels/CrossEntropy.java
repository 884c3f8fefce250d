// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_cross_entropy_params;
import org.qlora4j.kernels.abi.qlora4j;

/** Softmax cross entropy of a chunk of rows, loss and gradient in one pass. */
public final class CrossEntropy {
  /** The label of rows that count nothing. */
  public static final int IGNORE = -100;

  private CrossEntropy() {}

  /**
   * Row i with label l: {@code lse = log(sum(exp(logits)))}, {@code loss = (1 - smoothing) * (lse -
   * logits[l]) + smoothing * (lse - mean(logits)) + zLoss * lse^2}, {@code dlogits = scale * d loss
   * / d logits}. Rows labelled {@link #IGNORE} have loss 0 and zero gradients.
   *
   * @param logits F32 or BF16 [m, n], may be strided
   * @param labels I32 [m], each in [0, n) or {@link #IGNORE}
   * @param smoothing label smoothing, 0 for none
   * @param zLoss weight of the squared log-sum-exp, 0 for none
   * @param scale factor of the gradient, for example 1 / number of label tokens of the whole step
   * @param loss F32 [m], unscaled
   * @param dlogits [m, n] of the logits' type; may be the same view as logits; null when only the
   *     loss is wanted
   * @throws IllegalArgumentException on the CPU for a label outside its range; a GPU pack gives
   *     that row a NaN loss
   */
  public static void apply(
      KernelPack pack,
      DeviceTensor logits,
      DeviceTensor labels,
      float smoothing,
      float zLoss,
      float scale,
      DeviceTensor loss,
      @Nullable DeviceTensor dlogits) {
    DType type = Checks.activation("logits", logits);
    long m = logits.rows();
    long n = logits.cols();
    Checks.vector("labels", labels, DType.I32, m);
    Checks.vector("loss", loss, DType.F32, m);
    if (dlogits != null) {
      Checks.type("dlogits", dlogits, type);
      Checks.matrix("dlogits", dlogits, m, n);
    }
    synchronized (pack.lock()) {
      q4j_cross_entropy_params params =
          pack.frame()
              .crossEntropy
              .dtype(type.code())
              .m(m)
              .n(n)
              .smoothing(smoothing)
              .z_loss(zLoss)
              .scale(scale)
              .reserved(0)
              .logits(pack.address(logits))
              .ldlogits(logits.rowStride())
              .labels(pack.address(labels))
              .loss(pack.address(loss))
              .dlogits(pack.address(dlogits))
              .lddlogits(dlogits == null ? n : dlogits.rowStride());
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_cross_entropy(pack.context(), params));
      }
    }
  }
}
