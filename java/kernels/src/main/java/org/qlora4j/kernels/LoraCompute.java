// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.qlora4j;

/** How the LoRA branch computes. */
public enum LoraCompute {
  /**
   * A, B and the two small intermediates are rounded to the compute type before they are
   * multiplied.
   */
  FAST(qlora4j.Q4J_LORA_FAST),
  /** Nothing of the branch is rounded below f32. */
  F32(qlora4j.Q4J_LORA_F32);

  private final int code;

  LoraCompute(int code) {
    this.code = code;
  }

  /** Value of the ABI's {@code q4j_lora_compute}. */
  public int code() {
    return code;
  }
}
