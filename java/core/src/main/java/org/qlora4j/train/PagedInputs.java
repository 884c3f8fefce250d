// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceException;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PagedStore;
import org.qlora4j.model.LayerInputs;
import org.qlora4j.tensor.TorchBridge;

/**
 * What groups of layers keep, in the pages of a store: on a CPU in a file, on a GPU in page-locked
 * host memory. A page is written behind the forward pass and fetched ahead of the backward pass,
 * which knows the order.
 *
 * <p>On a pack that only counts, the pages that would be resident are allocated and nothing moves.
 */
final class PagedInputs implements LayerInputs, AutoCloseable {
  /** One in use, one on its way out, one on its way in. */
  private static final int RESIDENT_PAGES = 3;

  private static final long PAGE_ALIGNMENT = 256;
  private static final String WHAT = "layers' inputs";

  private final long pageBytes;
  private final int pages;
  private final @Nullable PagedStore store;
  private final @Nullable DeviceBuffer counted;
  private int planned = 0;

  /**
   * @param groups of a micro-batch, at least 1
   * @param bytes of the largest, see {@link LayerInputs#begin}
   * @param directory where a CPU pack makes its file
   * @throws org.qlora4j.common.InputException when there is no room for the pages
   */
  PagedInputs(KernelPack pack, int groups, long bytes, Path directory) {
    this.pages = groups;
    this.pageBytes = (bytes + PAGE_ALIGNMENT - 1) / PAGE_ALIGNMENT * PAGE_ALIGNMENT;
    if (pack.isDryRun()) {
      this.store = null;
      this.counted = DeviceBuffer.allocate(pack, deviceBytes());
      return;
    }
    this.counted = null;
    this.store =
        PageStores.create(
            pack,
            PagedStore.Options.of(groups, pageBytes, deviceBytes()).withDirectory(directory),
            WHAT,
            "a shorter sequence_length or a smaller per_device_train_batch_size, or use"
                + " activation_offloading: false");
  }

  /** Pages on the device, of a store for so many groups. */
  static int residentPages(int groups) {
    return Math.min(RESIDENT_PAGES, groups);
  }

  /** Memory of the device. */
  long deviceBytes() {
    return pageBytes * residentPages(pages);
  }

  /** What moved since this was made. */
  PagedMemory held() {
    if (store == null) {
      return PagedMemory.NONE;
    }
    PagedStore.Statistics s = store.statistics();
    return new PagedMemory(
        s.deviceBytes(), s.fetched() * pageBytes, s.writtenBack() * pageBytes, s.misses());
  }

  @Override
  public void begin(int groups, long bytes) {
    if (groups > pages || bytes > pageBytes) {
      throw new IllegalArgumentException(
          groups + " groups of " + bytes + " bytes in " + pages + " pages of " + pageBytes);
    }
    if (store == null || groups == planned) {
      return;
    }
    long[] order = new long[2 * groups];
    for (int i = 0; i < groups; i++) {
      order[i] = i;
      order[order.length - 1 - i] = i;
    }
    store.plan(order);
    planned = groups;
  }

  @Override
  public void keep(int group, List<DeviceTensor> tensors) {
    if (store == null) {
      return;
    }
    try (PagedStore.Page page = store.acquire(group)) {
      long offset = 0;
      for (DeviceTensor tensor : tensors) {
        TorchBridge.copy(tensor, page.tensor(offset, tensor.dtype(), tensor.shape()));
        offset += LayerInputs.aligned(tensor.bytes());
      }
      page.release(true);
    } catch (DeviceException e) {
      throw PageStores.failed(store, WHAT, e);
    }
  }

  @Override
  public void restore(int group, List<DeviceTensor> tensors) {
    if (store == null) {
      return;
    }
    try (PagedStore.Page page = store.acquire(group)) {
      long offset = 0;
      for (DeviceTensor tensor : tensors) {
        TorchBridge.copy(page.tensor(offset, tensor.dtype(), tensor.shape()), tensor);
        offset += LayerInputs.aligned(tensor.bytes());
      }
      page.release(false);
    } catch (DeviceException e) {
      throw PageStores.failed(store, WHAT, e);
    }
  }

  @Override
  public void close() {
    if (store != null) {
      store.close();
    }
    if (counted != null) {
      counted.close();
    }
  }
}
