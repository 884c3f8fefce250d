// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.q4j_rotary_params;
import org.qlora4j.kernels.abi.qlora4j;

/** Rotary position embedding, half-split pairs, in place. */
public final class Rotary {
  private Rotary() {}

  /**
   * Rotates the first {@code rotaryDim} elements of every head: pair (i, i + rotaryDim / 2) by
   * {@code positions[t] * inverseFrequencies[i]}.
   *
   * @param x the heads, F32 or BF16, rotated in place
   * @param heads number of heads
   * @param rotaryDim even
   * @param positions I32 [tokens]
   * @param inverseFrequencies F32 [rotaryDim / 2], radians per position
   * @param attentionScale factor on cosine and sine, 1 unless a scaling rule says otherwise
   * @param inverse whether to rotate back, which is the gradient
   */
  public static void apply(
      KernelPack pack,
      HeadView x,
      int heads,
      int rotaryDim,
      DeviceTensor positions,
      DeviceTensor inverseFrequencies,
      float attentionScale,
      boolean inverse) {
    DType type = Checks.activation("x", x.base());
    long tokens = positions.elements();
    if (heads < 0 || rotaryDim < 0 || rotaryDim % 2 != 0) {
      throw new IllegalArgumentException(
          "heads cannot be negative and the rotary dimension must be even, found "
              + heads
              + " heads, "
              + rotaryDim);
    }
    x.check("x", type, tokens, heads, rotaryDim);
    Checks.vector("positions", positions, DType.I32, tokens);
    Checks.vector("inverseFrequencies", inverseFrequencies, DType.F32, rotaryDim / 2);
    synchronized (pack.lock()) {
      q4j_rotary_params params =
          pack.frame()
              .rotary
              .dtype(type.code())
              .tokens(tokens)
              .heads(heads)
              .rotary_dim(rotaryDim)
              .inverse(inverse ? 1 : 0)
              .attention_scale(attentionScale)
              .reserved(0)
              .positions(pack.address(positions))
              .inverse_frequencies(pack.address(inverseFrequencies))
              .x(x.address(pack))
              .token_stride(x.tokenStride())
              .head_stride(x.headStride());
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_rotary(pack.context(), params));
      }
    }
  }
}
