// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.ByteBuffer;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.KernelPack;

/** One page that stays in the memory of the device. */
final class ResidentStates implements StateMemory {
  private final DeviceBuffer memory;

  ResidentStates(KernelPack pack, long pageBytes) {
    this.memory = DeviceBuffer.allocate(pack, pageBytes);
    memory.fill(0);
  }

  @Override
  public void update(Work work) {
    work.on(0, memory);
  }

  @Override
  public void read(int page, long offset, ByteBuffer target) {
    memory.copyOut(offset, target);
  }

  @Override
  public void write(int page, long offset, ByteBuffer source) {
    memory.copyIn(offset, source);
  }

  @Override
  public PagedMemory held() {
    return new PagedMemory(memory.bytes(), 0, 0, 0);
  }

  @Override
  public void close() {
    memory.close();
  }
}
