// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.bytedeco.javacpp.Pointer;

/**
 * A bare address for JavaCPP's calls. It owns nothing and has no deallocator, so neither a {@code
 * PointerScope} nor the garbage collector ever acts on what it points to.
 */
final class DeviceAddress extends Pointer {

  /** The null pointer, which the ABI reads as "not given". */
  static final DeviceAddress NULL = new DeviceAddress(0);

  DeviceAddress(long address) {
    super((Pointer) null);
    this.address = address;
  }

  void setAddress(long next) {
    this.address = next;
  }
}
