// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_activation_backward_params;
import org.qlora4j.kernels.abi.q4j_activation_forward_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * SiLU and GELU, alone or gating another tensor (SwiGLU, GeGLU). F32 or BF16, one type per call.
 */
public final class Activation {
  private Activation() {}

  /** The function. */
  public enum Kind {
    /** {@code x * sigmoid(x)}. */
    SILU(qlora4j.Q4J_ACTIVATION_SILU),
    /** {@code x * Phi(x)} with the error function. */
    GELU_ERF(qlora4j.Q4J_ACTIVATION_GELU_ERF),
    /** The tanh approximation of GELU. */
    GELU_TANH(qlora4j.Q4J_ACTIVATION_GELU_TANH);

    private final int code;

    Kind(int code) {
      this.code = code;
    }

    /** Value of the ABI's {@code q4j_activation}. */
    public int code() {
      return code;
    }
  }

  /**
   * {@code y = act(x)}, or {@code y = act(x) * up}.
   *
   * @param x [m, n], may be strided; the gate when {@code up} is given
   * @param up [m, n], may be strided, or null
   * @param y [m, n], contiguous; may be the same view as x when that is contiguous
   */
  public static void forward(
      KernelPack pack, Kind kind, DeviceTensor x, @Nullable DeviceTensor up, DeviceTensor y) {
    DType type = Checks.activation("x", x);
    long m = x.rows();
    long n = x.cols();
    RmsNorm.matching("y", y, x);
    if (up != null) {
      Checks.type("up", up, type);
      Checks.matrix("up", up, m, n);
    }
    synchronized (pack.lock()) {
      q4j_activation_forward_params params =
          pack.frame()
              .activationForward
              .dtype(type.code())
              .activation(kind.code())
              .reserved(0)
              .m(m)
              .n(n)
              .x(pack.address(x))
              .ldx(x.rowStride())
              .up(pack.address(up))
              .ldup(up == null ? n : up.rowStride())
              .y(pack.address(y));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_activation_forward(pack.context(), params));
      }
    }
  }

  /**
   * {@code dx = dy * up * act'(x)}, {@code dup = dy * act(x)}; without {@code up}: {@code dx = dy *
   * act'(x)}.
   *
   * @param x [m, n], may be strided
   * @param up [m, n], may be strided, or null
   * @param dy [m, n], contiguous
   * @param dx [m, n], may be strided; may be the same view as x
   * @param dup [m, n], may be strided; may be the same view as up or dy; required with up, else
   *     null
   */
  public static void backward(
      KernelPack pack,
      Kind kind,
      DeviceTensor x,
      @Nullable DeviceTensor up,
      DeviceTensor dy,
      DeviceTensor dx,
      @Nullable DeviceTensor dup) {
    DType type = Checks.activation("x", x);
    long m = x.rows();
    long n = x.cols();
    RmsNorm.matching("dy", dy, x);
    Checks.type("dx", dx, type);
    Checks.matrix("dx", dx, m, n);
    if (up != null) {
      Checks.type("up", up, type);
      Checks.matrix("up", up, m, n);
      DeviceTensor target = Checks.present("dup", dup);
      Checks.type("dup", target, type);
      Checks.matrix("dup", target, m, n);
    } else if (dup != null) {
      throw new IllegalArgumentException("dup given without up");
    }
    synchronized (pack.lock()) {
      q4j_activation_backward_params params =
          pack.frame()
              .activationBackward
              .dtype(type.code())
              .activation(kind.code())
              .reserved(0)
              .m(m)
              .n(n)
              .x(pack.address(x))
              .ldx(x.rowStride())
              .up(pack.address(up))
              .ldup(up == null ? n : up.rowStride())
              .dy(pack.address(dy))
              .dx(pack.address(dx))
              .lddx(dx.rowStride())
              .dup(pack.address(dup))
              .lddup(dup == null ? n : dup.rowStride());
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_activation_backward(pack.context(), params));
      }
    }
  }
}
