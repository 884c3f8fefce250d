// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

/** The device is unusable until the process restarts: a sticky CUDA error. */
public final class FatalDeviceException extends DeviceException {
  private static final long serialVersionUID = 1L;

  FatalDeviceException(String message, int code) {
    super(message + " (the device cannot be used again before this process is restarted)", code);
  }
}
