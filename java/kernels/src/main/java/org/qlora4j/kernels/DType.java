// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.qlora4j;

/** Element types of the kernel ABI. */
public enum DType {
  /** IEEE binary32. */
  F32(4, qlora4j.Q4J_F32),
  /** bfloat16: the upper half of a binary32. */
  BF16(2, qlora4j.Q4J_BF16),
  /** IEEE binary16; a storage type. */
  F16(2, qlora4j.Q4J_F16),
  /** 32-bit signed integer. */
  I32(4, qlora4j.Q4J_I32),
  /** 64-bit signed integer. */
  I64(8, qlora4j.Q4J_I64),
  /** Unsigned byte. */
  U8(1, qlora4j.Q4J_U8),
  /** Signed byte. */
  I8(1, qlora4j.Q4J_I8),
  /** 8-bit float with 4 exponent and 3 mantissa bits, no infinities (E4M3FN). */
  F8_E4M3(1, qlora4j.Q4J_F8_E4M3);

  private final int bytes;
  private final int code;

  DType(int bytes, int code) {
    this.bytes = bytes;
    this.code = code;
  }

  /** Size of one element in bytes. */
  public int bytes() {
    return bytes;
  }

  /** Value of the ABI's {@code q4j_dtype}. */
  public int code() {
    return code;
  }

  /** Whether the type can hold activations and be converted to and from {@code float}. */
  public boolean isFloat() {
    return this == F32 || this == BF16 || this == F16;
  }
}
