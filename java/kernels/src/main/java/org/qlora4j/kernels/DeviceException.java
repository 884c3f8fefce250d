// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

/** The device reported an error. The process may go on. */
public class DeviceException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final int code;

  DeviceException(String message, int code) {
    super(message);
    this.code = code;
  }

  /**
   * The device library's own error number (for CUDA a {@code cudaError_t}), or -1 when the pack
   * named none.
   */
  public int code() {
    return code;
  }
}
