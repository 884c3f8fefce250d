// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.Weight;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * LLM.int8's mixed product (Dettmers, Lewis, Belkada, Zettlemoyer 2022, equation 8): columns of x
 * that hold an outlier, a magnitude of at least the threshold, are multiplied in bf16 with the
 * dequantized weight, all others in INT8.
 *
 * <p>As in the paper, a row of x is scaled by the largest magnitude of the columns that are
 * multiplied in INT8; bitsandbytes also counts the small elements of outlier columns there, so its
 * scale is never smaller. The number of outliers is not known beforehand; they are multiplied in
 * groups of {@value #GROUP}, so that memory does not depend on it.
 */
final class MixedInt8 {
  /** Outlier columns of one product. */
  static final int GROUP = 64;

  /** Rows whose branch exists in f32 at a time. */
  private static final int BRANCH_ROWS = 64;

  private MixedInt8() {}

  /**
   * y = x * w^T + bias + branch + residual, as {@link LinearLayer#forward}.
   *
   * @param x bf16 [m, in]
   * @param weight INT8 [out, in]
   * @param xa f32 [m, rank], or null without a branch
   */
  static void forward(
      Pass pass,
      DeviceTensor x,
      Weight weight,
      float threshold,
      @Nullable LoraTerm term,
      @Nullable DeviceTensor bias,
      @Nullable DeviceTensor residual,
      DeviceTensor y,
      @Nullable DeviceTensor xa) {
    KernelPack pack = pass.pack();
    TensorArena arena = pass.arena();
    TensorArena.Mark mark = arena.mark();
    if (term != null) {
      // The branch sees x as it is.
      Linear.forward(pack, x, weight, term, null, null, null, xa);
    }
    DeviceTensor plain = arena.allocate(x.dtype(), x.rows(), x.cols());
    DeviceTensor columns = arena.allocate(x.dtype(), x.rows(), GROUP);
    DeviceTensor rows = arena.allocate(x.dtype(), weight.rows(), GROUP);
    try (PointerScope scope = new PointerScope()) {
      Tensor outliers = pack.isDryRun() ? null : split(x, threshold, plain);
      Linear.forward(pack, plain, weight, null, bias, residual, y, null);
      long count = outliers == null ? GROUP : outliers.numel();
      for (long first = 0; first < count; first += GROUP) {
        if (outliers != null) {
          long n = Math.min(GROUP, count - first);
          gather(x, weight, outliers.narrow(0, first, n), n, columns, rows);
        }
        Linear.forward(pack, columns, Weight.dense(rows), null, null, y, y, null);
      }
    }
    if (term != null) {
      addBranch(pass, term, Objects.requireNonNull(xa), y);
    }
    arena.release(mark);
  }

  /** Copies x without its outlier columns, which become zero; gives their numbers. */
  private static Tensor split(DeviceTensor x, float threshold, DeviceTensor plain) {
    Tensor values = TorchBridge.view(x);
    Tensor copy = TorchBridge.view(plain);
    copy.copy_(values);
    if (x.rows() == 0) {
      return torch.nonzero(torch.empty(new long[] {0})).flatten();
    }
    Tensor outliers =
        torch
            .nonzero(values.abs().amax(new long[] {0}, false).ge(new Scalar((double) threshold)))
            .flatten();
    if (outliers.numel() > 0) {
      copy.index_fill_(1, outliers, new Scalar(0.0));
    }
    return outliers;
  }

  /** Outlier columns of x and, dequantized, of the weight; columns beyond them are zero. */
  private static void gather(
      DeviceTensor x,
      Weight weight,
      Tensor outliers,
      long n,
      DeviceTensor columns,
      DeviceTensor rows) {
    Tensor xPart = TorchBridge.view(columns);
    Tensor wPart = TorchBridge.view(rows);
    xPart.zero_();
    wPart.zero_();
    xPart.narrow(1, 0, n).copy_(TorchBridge.view(x).index_select(1, outliers));
    Tensor absmax = TorchBridge.view(Objects.requireNonNull(weight.absmax()));
    wPart
        .narrow(1, 0, n)
        .copy_(
            TorchBridge.view(weight.data())
                .index_select(1, outliers)
                .to(ScalarType.Float)
                .mul(absmax.unsqueeze(1))
                .mul(new Scalar((double) (1f / 127f))));
  }

  /** y += s * xa * b^T; the product in f32, the sum rounded to the type of y once more. */
  private static void addBranch(Pass pass, LoraTerm term, DeviceTensor xa, DeviceTensor y) {
    long most = Math.min(BRANCH_ROWS, y.rows());
    DeviceTensor branch = pass.arena().allocate(DType.F32, most, y.cols());
    for (long first = 0; first < y.rows(); first += most) {
      long n = Math.min(most, y.rows() - first);
      DeviceTensor part = branch.rows(0, n);
      Linear.forward(
          pass.pack(), xa.rows(first, n), Weight.dense(term.b()), null, null, null, part, null);
      if (!pass.pack().isDryRun()) {
        try (PointerScope scope = new PointerScope()) {
          Tensor target = TorchBridge.view(y.rows(first, n));
          target.copy_(
              TorchBridge.view(part)
                  .mul(new Scalar((double) term.s()))
                  .add(target.to(ScalarType.Float)));
        }
      }
    }
  }
}
