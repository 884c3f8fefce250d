// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.model.Parameter;

/**
 * The adapter of one linear layer: {@code y += s * (dropout(x) * a^T) * b^T}.
 *
 * @param a f32 [rank, in]
 * @param b f32 [out, rank]
 * @param scaling s
 * @param dropout probability
 * @param dora magnitudes of the rows, or null for plain LoRA
 */
public record LoraLayer(
    Parameter a, Parameter b, float scaling, float dropout, @Nullable DoraMagnitude dora) {

  /** Plain LoRA. */
  public LoraLayer(Parameter a, Parameter b, float scaling, float dropout) {
    this(a, b, scaling, dropout, null);
  }

  public int rank() {
    return (int) a.value().rows();
  }

  /** The branch as the pack's operators take it. */
  public LoraTerm term(LoraCompute compute, Dropout mask) {
    return new LoraTerm(rank(), scaling, compute, a.value(), b.value(), mask);
  }
}
