// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.q4j_lora_weight_gradient_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * Gradients of the LoRA matrices. The branch's forward and its gradient to the input are part of
 * {@link Linear}.
 */
public final class Lora {
  private Lora() {}

  /**
   * {@code da += s * dyb^T * dropout(x)}, {@code db += s * dy^T * xa}.
   *
   * @param lora the branch with the forward's dropout
   * @param x [m, in], the linear's input
   * @param dy [m, out] of x's type
   * @param xa F32 [m, rank] that {@link Linear#forward} wrote
   * @param dyb F32 [m, rank] that {@link Linear#backwardInput} wrote
   * @param da F32 [rank, in], contiguous, added to
   * @param db F32 [out, rank], contiguous, added to
   */
  public static void weightGradient(
      KernelPack pack,
      LoraTerm lora,
      DeviceTensor x,
      DeviceTensor dy,
      DeviceTensor xa,
      DeviceTensor dyb,
      DeviceTensor da,
      DeviceTensor db) {
    DType type = Checks.activation("x", x);
    Checks.type("dy", dy, type);
    long m = x.rows();
    long n = dy.cols();
    long k = x.cols();
    checkRows(x, dy);
    checkFits(lora, n, k);
    checkSmall("xa", xa, m, lora.rank());
    checkSmall("dyb", dyb, m, lora.rank());
    checkSmall("da", da, lora.rank(), k);
    checkSmall("db", db, n, lora.rank());
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_lora_weight_gradient_params params =
          frame
              .loraWeightGradient
              .dtype(type.code())
              .m(m)
              .n(n)
              .k(k)
              .lora(frame.lora(pack, lora))
              .x(pack.address(x))
              .ldx(x.rowStride())
              .dy(pack.address(dy))
              .lddy(dy.rowStride())
              .xa(pack.address(xa))
              .dyb(pack.address(dyb))
              .da(pack.address(da))
              .db(pack.address(db))
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(
          qlora4j.q4j_lora_weight_gradient_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("lora_weight_gradient", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_lora_weight_gradient(pack.context(), params));
      }
    }
  }

  static void checkRows(DeviceTensor x, DeviceTensor dy) {
    if (x.rows() != dy.rows()) {
      throw new IllegalArgumentException(
          "x and dy must have equally many rows, found x " + x + " and dy " + dy);
    }
  }

  static void checkFits(LoraTerm lora, long n, long k) {
    if (lora.in() != k || lora.out() != n) {
      throw new IllegalArgumentException(
          "LoRA a "
              + lora.a()
              + " and b "
              + lora.b()
              + " do not fit a linear ["
              + n
              + ", "
              + k
              + "]");
    }
  }

  /** An f32 matrix of the branch. */
  static void checkSmall(String name, DeviceTensor tensor, long rows, long cols) {
    Checks.type(name, tensor, DType.F32);
    Checks.matrix(name, tensor, rows, cols);
    Checks.contiguous(name, tensor);
  }
}
