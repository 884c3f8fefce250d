// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.ByteBuffer;
import org.qlora4j.kernels.DeviceBuffer;

/** Memory for the pages of {@link MomentStates}, all zeros at first. */
sealed interface StateMemory extends AutoCloseable permits ResidentStates, PagedStates {

  /** What is done to a page. */
  interface Work {
    void on(int page, DeviceBuffer memory);
  }

  /** Hands out every page once, in order, to work that writes to it. */
  void update(Work work);

  /** Fills all remaining bytes of {@code target}, whose position stays, from a page. */
  void read(int page, long offset, ByteBuffer target);

  /** Copies all remaining bytes of {@code source}, whose position stays, into a page. */
  void write(int page, long offset, ByteBuffer source);

  /** Bytes held in the memory of the device, and what was moved. */
  PagedMemory held();

  @Override
  void close();
}
