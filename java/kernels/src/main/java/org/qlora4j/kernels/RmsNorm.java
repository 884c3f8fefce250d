// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_rms_norm_backward_params;
import org.qlora4j.kernels.abi.q4j_rms_norm_forward_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * Root mean square normalisation with an optional residual add in front. All matrices are
 * contiguous [m, n], F32 or BF16, one type per call.
 */
public final class RmsNorm {
  private RmsNorm() {}

  /**
   * {@code u = x + residual}, {@code y = weight * (u * rstd)}, {@code rstd = 1 / sqrt(mean(u^2) +
   * eps)}.
   *
   * @param x [m, n]
   * @param residual [m, n], or null: u = x
   * @param weight F32 or BF16 [n]
   * @param eps added to the mean square
   * @param unitOffset whether the factor is {@code 1 + weight}, as Gemma has it
   * @param sum [m, n], receives u; may be the same view as x or residual; null when it is not
   *     wanted
   * @param y [m, n]
   * @param rstd F32 [m], kept for the backward, or null
   */
  public static void forward(
      KernelPack pack,
      DeviceTensor x,
      @Nullable DeviceTensor residual,
      DeviceTensor weight,
      float eps,
      boolean unitOffset,
      @Nullable DeviceTensor sum,
      DeviceTensor y,
      @Nullable DeviceTensor rstd) {
    DType type = Checks.activation("x", x);
    long m = x.rows();
    long n = x.cols();
    Checks.contiguous("x", x);
    matching("y", y, x);
    if (residual != null) {
      matching("residual", residual, x);
    }
    if (sum != null) {
      matching("sum", sum, x);
    }
    Checks.vector("weight", weight, Checks.activation("weight", weight), n);
    if (rstd != null) {
      Checks.vector("rstd", rstd, DType.F32, m);
    }
    synchronized (pack.lock()) {
      q4j_rms_norm_forward_params params =
          pack.frame()
              .rmsNormForward
              .dtype(type.code())
              .m(m)
              .n(n)
              .eps(eps)
              .unit_offset(unitOffset ? 1 : 0)
              .weight_dtype(weight.dtype().code())
              .reserved(0)
              .x(pack.address(x))
              .residual(pack.address(residual))
              .weight(pack.address(weight))
              .sum(pack.address(sum))
              .y(pack.address(y))
              .rstd(pack.address(rstd));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_rms_norm_forward(pack.context(), params));
      }
    }
  }

  /**
   * Gradient of {@link #forward} to u, plus what reaches u along the residual path.
   *
   * @param u [m, n], the normalised sum
   * @param weight F32 or BF16 [n]
   * @param unitOffset as in the forward
   * @param rstd F32 [m] of the forward
   * @param dy [m, n]
   * @param dresidual [m, n], added to dx, or null
   * @param dx [m, n]; may be the same view as dresidual
   * @param dweight F32 [n], added to, or null
   */
  public static void backward(
      KernelPack pack,
      DeviceTensor u,
      DeviceTensor weight,
      boolean unitOffset,
      DeviceTensor rstd,
      DeviceTensor dy,
      @Nullable DeviceTensor dresidual,
      DeviceTensor dx,
      @Nullable DeviceTensor dweight) {
    DType type = Checks.activation("u", u);
    long m = u.rows();
    long n = u.cols();
    Checks.contiguous("u", u);
    matching("dy", dy, u);
    matching("dx", dx, u);
    if (dresidual != null) {
      matching("dresidual", dresidual, u);
    }
    Checks.vector("weight", weight, Checks.activation("weight", weight), n);
    Checks.vector("rstd", rstd, DType.F32, m);
    if (dweight != null) {
      Checks.vector("dweight", dweight, DType.F32, n);
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_rms_norm_backward_params params =
          frame
              .rmsNormBackward
              .dtype(type.code())
              .m(m)
              .n(n)
              .unit_offset(unitOffset ? 1 : 0)
              .weight_dtype(weight.dtype().code())
              .u(pack.address(u))
              .weight(pack.address(weight))
              .rstd(pack.address(rstd))
              .dy(pack.address(dy))
              .dresidual(pack.address(dresidual))
              .dx(pack.address(dx))
              .dweight(pack.address(dweight))
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(
          qlora4j.q4j_rms_norm_backward_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("rms_norm_backward", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_rms_norm_backward(pack.context(), params));
      }
    }
  }

  /** A contiguous tensor of the type and shape of {@code model}. */
  static void matching(String name, DeviceTensor tensor, DeviceTensor model) {
    Checks.type(name, tensor, model.dtype());
    Checks.matrix(name, tensor, model.rows(), model.cols());
    Checks.contiguous(name, tensor);
  }
}
