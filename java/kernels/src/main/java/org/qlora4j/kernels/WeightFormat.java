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
  FP4(qlora4j.Q4J_WEIGHT_FP4),
  /** 8-bit integer codes with one absmax per row, see {@link QuantizationInt8}. */
  INT8(qlora4j.Q4J_WEIGHT_INT8),
  /** FP8 E4M3 codes with one scale per row, see {@link QuantizationFp8}. */
  FP8(qlora4j.Q4J_WEIGHT_FP8);

  private final int code;

  WeightFormat(int code) {
    this.code = code;
  }

  /** Whether the weight is stored in 4 bits with one absmax per block. */
  public boolean is4Bit() {
    return this == NF4 || this == FP4;
  }

  /** Value of the ABI's {@code q4j_weight_format}. */
  public int code() {
    return code;
  }
}
