// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.qlora4j;

/** How a weight matrix is stored. */
public enum WeightFormat {
  /** Elements of the weight's type. */
  DENSE(qlora4j.Q4J_WEIGHT_DENSE),
  /** 4-bit NormalFloat codes in the canonical (bitsandbytes) layout. */
  NF4(qlora4j.Q4J_WEIGHT_NF4),
  /** 4-bit float codes in the canonical (bitsandbytes) layout. */
  FP4(qlora4j.Q4J_WEIGHT_FP4);

  private final int code;

  WeightFormat(int code) {
    this.code = code;
  }

  /** Value of the ABI's {@code q4j_weight_format}. */
  public int code() {
    return code;
  }
}
