// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DeviceException;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.OutOfDeviceMemoryException;
import org.qlora4j.kernels.PagedStore;

/** Makes paged stores, and says what a user can do when one cannot be made or used. */
final class PageStores {
  private PageStores() {}

  /**
   * Makes a store whose pages lie in {@code options.directory()} on a CPU.
   *
   * @param what is in the pages
   * @param remedies what takes less room
   * @throws InputException when there is no room for the pages
   */
  static PagedStore create(
      KernelPack pack, PagedStore.Options options, String what, String remedies) {
    try {
      return PagedStore.create(pack, options);
    } catch (IllegalArgumentException e) {
      throw new InputException("paging_dir: " + e.getMessage(), e);
    } catch (OutOfDeviceMemoryException e) {
      throw new InputException(
          "no room for the pages of the "
              + what
              + ": "
              + e.getMessage()
              + "; name a directory with more room in paging_dir, "
              + remedies,
          e);
    }
  }

  /** On a CPU the device that fails is the disk, which is the user's to mend. */
  static RuntimeException failed(PagedStore store, String what, DeviceException e) {
    if (store.pack().deviceKind() != DeviceKind.CPU) {
      return e;
    }
    return new InputException(
        "the pages of the "
            + what
            + " cannot be read or written: "
            + e.getMessage()
            + "; the checkpoints are whole: mend the disk or change paging_dir, then go on"
            + " with --resume",
        e);
  }
}
