// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_layer_norm_backward_params;
import org.qlora4j.kernels.abi.q4j_layer_norm_forward_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * Layer normalisation with an optional residual add in front. All matrices are contiguous [m, n],
 * F32 or BF16, one type per call.
 */
public final class LayerNorm {
  private LayerNorm() {}

  /**
   * {@code u = x + residual}, {@code y = (u - mean) * rstd * weight + bias}, {@code rstd = 1 /
   * sqrt(var + eps)}, var biased.
   *
   * @param x [m, n]
   * @param residual [m, n], or null: u = x
   * @param weight F32 or BF16 [n]
   * @param bias [n] of weight's type, or null
   * @param eps added to the variance
   * @param sum [m, n], receives u; may be the same view as x or residual; null when it is not
   *     wanted
   * @param y [m, n]
   * @param mean F32 [m], kept for the backward, or null
   * @param rstd F32 [m], kept for the backward, or null
   */
  public static void forward(
      KernelPack pack,
      DeviceTensor x,
      @Nullable DeviceTensor residual,
      DeviceTensor weight,
      @Nullable DeviceTensor bias,
      float eps,
      @Nullable DeviceTensor sum,
      DeviceTensor y,
      @Nullable DeviceTensor mean,
      @Nullable DeviceTensor rstd) {
    DType type = Checks.activation("x", x);
    long m = x.rows();
    long n = x.cols();
    Checks.contiguous("x", x);
    RmsNorm.matching("y", y, x);
    if (residual != null) {
      RmsNorm.matching("residual", residual, x);
    }
    if (sum != null) {
      RmsNorm.matching("sum", sum, x);
    }
    Checks.vector("weight", weight, Checks.activation("weight", weight), n);
    if (bias != null) {
      Checks.vector("bias", bias, weight.dtype(), n);
    }
    if (mean != null) {
      Checks.vector("mean", mean, DType.F32, m);
    }
    if (rstd != null) {
      Checks.vector("rstd", rstd, DType.F32, m);
    }
    synchronized (pack.lock()) {
      q4j_layer_norm_forward_params params =
          pack.frame()
              .layerNormForward
              .dtype(type.code())
              .m(m)
              .n(n)
              .eps(eps)
              .weight_dtype(weight.dtype().code())
              .x(pack.address(x))
              .residual(pack.address(residual))
              .weight(pack.address(weight))
              .bias(pack.address(bias))
              .sum(pack.address(sum))
              .y(pack.address(y))
              .mean(pack.address(mean))
              .rstd(pack.address(rstd));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_layer_norm_forward(pack.context(), params));
      }
    }
  }

  /**
   * Gradient of {@link #forward} to u, plus what reaches u along the residual path.
   *
   * @param u [m, n], the normalised sum
   * @param weight F32 or BF16 [n]
   * @param mean F32 [m] of the forward
   * @param rstd F32 [m] of the forward
   * @param dy [m, n]
   * @param dresidual [m, n], added to dx, or null
   * @param dx [m, n]; may be the same view as dresidual
   * @param dweight F32 [n], added to, or null
   * @param dbias F32 [n], added to, or null
   */
  public static void backward(
      KernelPack pack,
      DeviceTensor u,
      DeviceTensor weight,
      DeviceTensor mean,
      DeviceTensor rstd,
      DeviceTensor dy,
      @Nullable DeviceTensor dresidual,
      DeviceTensor dx,
      @Nullable DeviceTensor dweight,
      @Nullable DeviceTensor dbias) {
    DType type = Checks.activation("u", u);
    long m = u.rows();
    long n = u.cols();
    Checks.contiguous("u", u);
    RmsNorm.matching("dy", dy, u);
    RmsNorm.matching("dx", dx, u);
    if (dresidual != null) {
      RmsNorm.matching("dresidual", dresidual, u);
    }
    Checks.vector("weight", weight, Checks.activation("weight", weight), n);
    Checks.vector("mean", mean, DType.F32, m);
    Checks.vector("rstd", rstd, DType.F32, m);
    if (dweight != null) {
      Checks.vector("dweight", dweight, DType.F32, n);
    }
    if (dbias != null) {
      Checks.vector("dbias", dbias, DType.F32, n);
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_layer_norm_backward_params params =
          frame
              .layerNormBackward
              .dtype(type.code())
              .m(m)
              .n(n)
              .weight_dtype(weight.dtype().code())
              .reserved(0)
              .u(pack.address(u))
              .weight(pack.address(weight))
              .mean(pack.address(mean))
              .rstd(pack.address(rstd))
              .dy(pack.address(dy))
              .dresidual(pack.address(dresidual))
              .dx(pack.address(dx))
              .dweight(pack.address(dweight))
              .dbias(pack.address(dbias))
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(
          qlora4j.q4j_layer_norm_backward_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("layer_norm_backward", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_layer_norm_backward(pack.context(), params));
      }
    }
  }
}
