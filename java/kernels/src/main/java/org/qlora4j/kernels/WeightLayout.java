// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.qlora4j;

/** The order in which a 4-bit weight lies in memory. */
public enum WeightLayout {
  /** bitsandbytes' order: what files hold and every operator takes. */
  CANONICAL(qlora4j.Q4J_LAYOUT_CANONICAL),
  /** The pack's own order, made by {@link PackedWeights}; {@link Linear} of that pack takes it. */
  PACKED(qlora4j.Q4J_LAYOUT_PACKED);

  private final int code;

  WeightLayout(int code) {
    this.code = code;
  }

  /** Value of the ABI's {@code q4j_weight_layout}. */
  public int code() {
    return code;
  }
}
