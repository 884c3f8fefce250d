// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

/**
 * The LoRA branch of a linear: {@code y += s * (dropout(x) * a^T) * b^T}.
 *
 * @param rank inner dimension
 * @param s {@code alpha / rank}, or {@code alpha / sqrt(rank)} for rank-stabilised LoRA
 * @param compute how the branch rounds
 * @param a f32 [rank, in], contiguous
 * @param b f32 [out, rank], contiguous
 * @param dropout applied to x on the way into the branch
 */
public record LoraTerm(
    int rank, float s, LoraCompute compute, DeviceTensor a, DeviceTensor b, Dropout dropout) {

  /**
   * Checks the shapes.
   *
   * @throws IllegalArgumentException when a is not [rank, in], b is not [out, rank], or they are
   *     not contiguous f32
   */
  public LoraTerm {
    if (rank <= 0) {
      throw new IllegalArgumentException(
          "LoRA rank must be positive, found " + rank + "; pass null for no branch");
    }
    Checks.type("a", a, DType.F32);
    Checks.type("b", b, DType.F32);
    Checks.matrix("a", a, rank, a.cols());
    Checks.matrix("b", b, b.rows(), rank);
    Checks.contiguous("a", a);
    Checks.contiguous("b", b);
  }

  /** Number of input features, the columns of a. */
  public long in() {
    return a.cols();
  }

  /** Number of output features, the rows of b. */
  public long out() {
    return b.rows();
  }

  /** The same term with another dropout, as every micro-batch needs. */
  public LoraTerm withDropout(Dropout next) {
    return new LoraTerm(rank, s, compute, a, b, next);
  }
}
