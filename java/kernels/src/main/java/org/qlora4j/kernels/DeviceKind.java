// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.qlora4j;

/** Where a pack computes and keeps its memory. */
public enum DeviceKind {
  /** Host memory, which the JVM can address. */
  CPU(qlora4j.Q4J_DEVICE_CPU),
  /** Memory of an NVIDIA GPU; only copies reach it. */
  CUDA(qlora4j.Q4J_DEVICE_CUDA);

  private final int code;

  DeviceKind(int code) {
    this.code = code;
  }

  static DeviceKind of(int code) {
    for (DeviceKind kind : values()) {
      if (kind.code == code) {
        return kind;
      }
    }
    throw new IllegalStateException(
        "the pack reports device kind " + code + ", which this library does not know");
  }
}
