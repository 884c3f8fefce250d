// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import org.qlora4j.kernels.DeviceException;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.MomentPages;
import org.qlora4j.kernels.PagedStore;

/**
 * Pages of which a budget is in the memory of the device. The store knows the order of a step and
 * fetches pages ahead.
 */
final class PagedStates implements StateMemory {
  private static final String WHAT = "optimizer's states";

  private final PagedStore store;
  private final long pageBytes;
  private final int count;

  /**
   * @param residentBytes memory for pages; at least two are held, or one where there is one
   * @param directory where a CPU pack makes its file
   * @throws org.qlora4j.common.InputException when there is no room for the pages
   */
  PagedStates(KernelPack pack, MomentPages layout, long residentBytes, Path directory) {
    this.pageBytes = layout.pageBytes();
    this.count = layout.count();
    long held = Math.max(residentBytes, Math.min(2, count) * pageBytes);
    this.store =
        PageStores.create(
            pack,
            PagedStore.Options.of(count, pageBytes, held).withDirectory(directory),
            WHAT,
            "or use optim: paged_adamw_8bit");
    try {
      store.plan(layout.order());
    } catch (RuntimeException e) {
      store.close();
      throw e;
    }
  }

  @Override
  public void update(Work work) {
    try {
      for (int number = 0; number < count; number++) {
        try (PagedStore.Page page = store.acquire(number)) {
          work.on(number, page.buffer());
          page.release(true);
        }
      }
    } catch (DeviceException e) {
      throw PageStores.failed(store, WHAT, e);
    }
  }

  @Override
  public void read(int page, long offset, ByteBuffer target) {
    try {
      store.readPage(page, offset, target);
    } catch (DeviceException e) {
      throw PageStores.failed(store, WHAT, e);
    }
  }

  @Override
  public void write(int page, long offset, ByteBuffer source) {
    try {
      store.writePage(page, offset, source);
    } catch (DeviceException e) {
      throw PageStores.failed(store, WHAT, e);
    }
  }

  @Override
  public PagedMemory held() {
    PagedStore.Statistics statistics = store.statistics();
    return new PagedMemory(
        statistics.deviceBytes(),
        statistics.fetched() * pageBytes,
        statistics.writtenBack() * pageBytes,
        statistics.misses());
  }

  @Override
  public void close() {
    store.close();
  }
}
