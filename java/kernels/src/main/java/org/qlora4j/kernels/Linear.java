// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_linear_backward_input_params;
import org.qlora4j.kernels.abi.q4j_linear_forward_params;
import org.qlora4j.kernels.abi.q4j_linear_weight_gradient_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * A linear with a dense or quantized weight W [n, k] and an optional LoRA branch. Activations are
 * F32 or BF16, one type per call, and may be strided (views of columns of a wider tensor).
 */
public final class Linear {
  private Linear() {}

  /**
   * {@code y = x * W^T + bias + s * xa * b^T + residual} with {@code xa = dropout(x) * a^T}.
   *
   * @param x [m, k]
   * @param weight [n, k]; used in BF16 when x is BF16 and in F32 when x is F32
   * @param lora the branch, or null
   * @param bias F32 or BF16 [n], or null
   * @param residual [m, n] of x's type, may be the same view as y, or null
   * @param y [m, n] of x's type, or null when only xa is wanted
   * @param xa F32 [m, rank], contiguous, kept for the backward; required with a branch, else null
   */
  public static void forward(
      KernelPack pack,
      DeviceTensor x,
      Weight weight,
      @Nullable LoraTerm lora,
      @Nullable DeviceTensor bias,
      @Nullable DeviceTensor residual,
      @Nullable DeviceTensor y,
      @Nullable DeviceTensor xa) {
    DType type = Checks.activation("x", x);
    long m = x.rows();
    long n = weight.rows();
    long k = weight.cols();
    if (x.cols() != k) {
      throw new IllegalArgumentException(
          "x "
              + x
              + " does not fit the weight ["
              + n
              + ", "
              + k
              + "]: x must have "
              + k
              + " columns");
    }
    if (y != null) {
      Checks.type("y", y, type);
      Checks.matrix("y", y, m, n);
    }
    if (bias != null) {
      Checks.activation("bias", bias);
      Checks.elements("bias", bias, n);
      Checks.contiguous("bias", bias);
    }
    if (residual != null) {
      Checks.type("residual", residual, type);
      Checks.matrix("residual", residual, m, n);
    }
    if (lora != null) {
      Lora.checkFits(lora, n, k);
      Lora.checkSmall("xa", Checks.present("xa", xa), m, lora.rank());
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_linear_forward_params params =
          frame
              .linearForward
              .dtype(type.code())
              .m(m)
              .weight(frame.weight(pack, weight))
              .lora(lora == null ? null : frame.lora(pack, lora))
              .x(pack.address(x))
              .ldx(x.rowStride())
              .bias(pack.address(bias))
              .bias_dtype(bias == null ? DType.F32.code() : bias.dtype().code())
              .reserved(0)
              .residual(pack.address(residual))
              .ldr(residual == null ? n : residual.rowStride())
              .y(pack.address(y))
              .ldy(y == null ? n : y.rowStride())
              .xa(pack.address(lora == null ? null : xa))
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(qlora4j.q4j_linear_forward_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("linear_forward", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_linear_forward(pack.context(), params));
      }
    }
  }

  /**
   * {@code dx = dy * W + s * mask(dyb * a)} with {@code dyb = dy * b}; the mask is the forward's
   * dropout, drawn again.
   *
   * @param dy [m, n]
   * @param weight [n, k]; may be null when dx is null
   * @param lora the branch with the forward's dropout, or null
   * @param dx [m, k] of dy's type, or null when only dyb is wanted
   * @param accumulate whether to add to dx (in f32, rounded once) instead of overwriting it
   * @param dyb F32 [m, rank], contiguous, kept for {@link Lora#weightGradient}; required with a
   *     branch, else null
   */
  public static void backwardInput(
      KernelPack pack,
      DeviceTensor dy,
      @Nullable Weight weight,
      @Nullable LoraTerm lora,
      @Nullable DeviceTensor dx,
      boolean accumulate,
      @Nullable DeviceTensor dyb) {
    DType type = Checks.activation("dy", dy);
    long m = dy.rows();
    long n = dy.cols();
    long k;
    if (weight != null) {
      k = weight.cols();
      if (weight.rows() != n) {
        throw new IllegalArgumentException(
            "dy "
                + dy
                + " does not fit the weight ["
                + weight.rows()
                + ", "
                + k
                + "]: dy must have "
                + weight.rows()
                + " columns");
      }
    } else if (dx != null) {
      throw new IllegalArgumentException("dx needs the weight, found null");
    } else {
      k = Checks.present("lora", lora).in();
    }
    if (dx != null) {
      Checks.type("dx", dx, type);
      Checks.matrix("dx", dx, m, k);
    }
    if (lora != null) {
      Lora.checkFits(lora, n, k);
      Lora.checkSmall("dyb", Checks.present("dyb", dyb), m, lora.rank());
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_linear_backward_input_params params =
          frame
              .linearBackwardInput
              .dtype(type.code())
              .m(m)
              .weight(weight == null ? null : frame.weight(pack, weight))
              .lora(lora == null ? null : frame.lora(pack, lora))
              .dy(pack.address(dy))
              .lddy(dy.rowStride())
              .dx(pack.address(dx))
              .lddx(dx == null ? k : dx.rowStride())
              .accumulate(accumulate ? 1 : 0)
              .reserved(0)
              .dyb(pack.address(lora == null ? null : dyb))
              .n(n)
              .k(k)
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(
          qlora4j.q4j_linear_backward_input_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("linear_backward_input", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_linear_backward_input(pack.context(), params));
      }
    }
  }

  /**
   * {@code dw += dy^T * x}, {@code dbias += column sums of dy}.
   *
   * @param x [m, k]
   * @param dy [m, n] of x's type
   * @param dw F32 [n, k], contiguous, or null
   * @param dbias F32 [n], or null
   */
  public static void weightGradient(
      KernelPack pack,
      DeviceTensor x,
      DeviceTensor dy,
      @Nullable DeviceTensor dw,
      @Nullable DeviceTensor dbias) {
    DType type = Checks.activation("x", x);
    Checks.type("dy", dy, type);
    long m = x.rows();
    long n = dy.cols();
    long k = x.cols();
    Lora.checkRows(x, dy);
    if (dw != null) {
      Checks.type("dw", dw, DType.F32);
      Checks.matrix("dw", dw, n, k);
      Checks.contiguous("dw", dw);
    }
    if (dbias != null) {
      Checks.vector("dbias", dbias, DType.F32, n);
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_linear_weight_gradient_params params =
          frame
              .linearWeightGradient
              .dtype(type.code())
              .m(m)
              .n(n)
              .k(k)
              .x(pack.address(x))
              .ldx(x.rowStride())
              .dy(pack.address(dy))
              .lddy(dy.rowStride())
              .dw(pack.address(dw))
              .dbias(pack.address(dbias))
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(
          qlora4j.q4j_linear_weight_gradient_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("linear_weight_gradient", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_linear_weight_gradient(pack.context(), params));
      }
    }
  }
}
