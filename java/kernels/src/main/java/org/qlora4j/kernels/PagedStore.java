// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.Pointer;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * Memory in pages of equal size, of which only some are in device memory at a time: for optimizer
 * states, which are used once a step, in an order that is known beforehand.
 *
 * <pre>{@code
 * try (PagedStore store = PagedStore.create(pack, PagedStore.Options.of(pages, pageBytes, budget))) {
 *   store.plan(0, 1, 2, 3);
 *   for (long number = 0; number < 4; number++) {
 *     try (PagedStore.Page page = store.acquire(number)) {
 *       AdamW.step(pack, options, t, scale, slots(page));
 *       page.release(true);
 *     }
 *   }
 * }
 * }</pre>
 *
 * <p>Nothing here waits for the device, but for {@link #readPage}, {@link #writePage} and {@link
 * #close}: work that is called on a page runs after the page has arrived, and a page leaves after
 * the work that was called before its release. With a plan, pages are fetched before they are
 * acquired. Pages start as zeros. {@link MomentPages} lays the moments of many parameters out in
 * pages.
 *
 * <p>A store belongs to its pack, is to be used by one thread at a time and closed before the pack.
 * Its frames count in {@link KernelPack#allocatedBytes}.
 */
public final class PagedStore implements AutoCloseable {
  private final KernelPack pack;
  private final Options options;
  private final long handle;
  private final long deviceBytes;
  private final LeakAlarm.Watch alarm;
  private boolean closed;

  /** How pages move. */
  public enum Strategy {
    /** The pack's best. */
    AUTO(qlora4j.Q4J_PAGING_AUTO),
    /** Copies between host memory, or a file, and frames on the device. */
    COPIES(qlora4j.Q4J_PAGING_COPIES),
    /** CUDA's managed memory with prefetches, where the device supports it. */
    MANAGED(qlora4j.Q4J_PAGING_MANAGED);

    private final int code;

    Strategy(int code) {
      this.code = code;
    }
  }

  /**
   * What to make.
   *
   * @param pages number of pages
   * @param pageBytes size of each, a multiple of 256
   * @param residentBytes device memory for pages, rounded down to whole ones; at least two pages,
   *     or one where there is one
   * @param strategy how pages move
   * @param directory where a CPU pack makes the file that holds the pages; null: in host memory. A
   *     GPU pack ignores it
   */
  public record Options(
      long pages, long pageBytes, long residentBytes, Strategy strategy, @Nullable Path directory) {

    /** The pack's best strategy, pages in host memory. */
    public static Options of(long pages, long pageBytes, long residentBytes) {
      return new Options(pages, pageBytes, residentBytes, Strategy.AUTO, null);
    }

    /** The same with a strategy. */
    public Options withStrategy(Strategy chosen) {
      return new Options(pages, pageBytes, residentBytes, chosen, directory);
    }

    /** The same with a directory for a CPU pack's file. */
    public Options withDirectory(@Nullable Path chosen) {
      return new Options(pages, pageBytes, residentBytes, strategy, chosen);
    }
  }

  /**
   * What a store holds and has done since it was made.
   *
   * @param deviceBytes memory of the frames
   * @param hostBytes memory, or file, behind the pages
   * @param fetched pages copied to the device
   * @param writtenBack pages copied from the device
   * @param hits acquisitions that found the page resident or on its way
   * @param misses acquisitions that had to start the fetch
   */
  public record Statistics(
      long deviceBytes, long hostBytes, long fetched, long writtenBack, long hits, long misses) {}

  private PagedStore(KernelPack pack, Options options, long handle, long deviceBytes) {
    this.pack = pack;
    this.options = options;
    this.handle = handle;
    this.deviceBytes = deviceBytes;
    this.alarm =
        LeakAlarm.watch(
            this,
            "a PagedStore of "
                + options.pages()
                + " pages of "
                + options.pageBytes()
                + " bytes on "
                + pack.name());
  }

  /** Whether the pack, or its base pack, has a paged store. */
  public static boolean isSupported(KernelPack pack) {
    return pack.supports("paged_store_create");
  }

  /**
   * Makes a store.
   *
   * @throws IllegalArgumentException for sizes that make no store, or a directory in which no file
   *     can be made
   * @throws UnsupportedOperationException when the pack has no paged store, or not with this
   *     strategy
   * @throws OutOfDeviceMemoryException when there is no room for the frames, or for the pages
   */
  public static PagedStore create(KernelPack pack, Options options) {
    if (pack.isDryRun()) {
      throw new IllegalStateException("a paged store has no dry run");
    }
    Path directory = options.directory();
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      LongPointer made = frame.bytes.put(0);
      try (BytePointer path =
          directory == null
              ? null
              : new BytePointer(directory.toString(), StandardCharsets.UTF_8)) {
        Status.check(
            qlora4j.q4j_paged_store_create(
                pack.context(),
                frame
                    .pagedStoreCreate
                    .strategy(options.strategy().code)
                    .pages(options.pages())
                    .page_bytes(options.pageBytes())
                    .resident_bytes(options.residentBytes())
                    .directory(path)
                    .store(made)));
      }
      long handle = made.get();
      long frames = Math.min(options.pages(), options.residentBytes() / options.pageBytes());
      long deviceBytes = frames * options.pageBytes();
      pack.adopt(handle, deviceBytes);
      return new PagedStore(pack, options, handle, deviceBytes);
    }
  }

  /** What the store was made with. */
  public Options options() {
    return options;
  }

  /** The pack whose memory the pages are in. */
  public KernelPack pack() {
    return pack;
  }

  /**
   * Says in which order pages will be acquired, again and again until the next plan. Pages may
   * repeat, and any other order is served too, only later. No page at all forgets the plan.
   *
   * @throws IllegalArgumentException for a page the store does not have
   */
  public void plan(long... order) {
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      Status.check(
          qlora4j.q4j_paged_store_plan(
              pack.context(),
              frame
                  .pagedStorePlan
                  .reserved(0)
                  .store(store())
                  .count(order.length)
                  .order(frame.lengths(order))));
    }
  }

  /**
   * Makes a page resident until it is released. A page may be acquired again while it is; it is
   * then released as often.
   *
   * @throws IllegalArgumentException for a page the store does not have
   * @throws OutOfDeviceMemoryException when every frame holds a page that is acquired
   */
  public Page acquire(long page) {
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      LongPointer memory = frame.bytes.put(0);
      Status.check(
          qlora4j.q4j_paged_store_acquire(
              pack.context(),
              frame.pagedStoreAcquire.reserved(0).store(store()).page(page).memory(memory)));
      return new Page(page, memory.get());
    }
  }

  /**
   * Fills all remaining bytes of {@code target} from a page, which need not be acquired, and waits
   * for them. The position of {@code target} stays as it is.
   *
   * @param offset first byte within the page
   */
  public void readPage(long page, long offset, ByteBuffer target) {
    if (target.isReadOnly()) {
      throw new IllegalArgumentException("cannot copy a page into a read-only buffer");
    }
    copy(true, page, offset, target);
  }

  /**
   * Copies all remaining bytes of {@code source} into a page, which need not be acquired; they are
   * there when the call returns. The position of {@code source} stays as it is.
   *
   * @param offset first byte within the page
   */
  public void writePage(long page, long offset, ByteBuffer source) {
    copy(false, page, offset, source);
  }

  private void copy(boolean toHost, long page, long offset, ByteBuffer host) {
    synchronized (pack.lock()) {
      if (host.isDirect()) {
        copyDirect(toHost, page, offset, host);
        return;
      }
      ByteBuffer rest = host.duplicate();
      long at = offset;
      do {
        ByteBuffer bridge = pack.staging();
        bridge.limit(Math.min(bridge.capacity(), rest.remaining()));
        int count = bridge.limit();
        if (!toHost) {
          bridge.put(0, rest, rest.position(), count);
        }
        copyDirect(toHost, page, at, bridge);
        if (toHost) {
          rest.put(rest.position(), bridge, 0, count);
        }
        rest.position(rest.position() + count);
        at += count;
      } while (rest.hasRemaining());
    }
  }

  private void copyDirect(boolean toHost, long page, long offset, ByteBuffer host) {
    Status.check(
        qlora4j.q4j_paged_store_copy(
            pack.context(),
            pack.frame()
                .pagedStoreCopy
                .to_host(toHost ? 1 : 0)
                .store(store())
                .page(page)
                .offset(offset)
                .bytes(host.remaining())
                .host(new Pointer(host))));
  }

  /** What the store holds and has done. */
  public Statistics statistics() {
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      LongPointer all = frame.lengths(new long[6]);
      Status.check(
          qlora4j.q4j_paged_store_statistics(
              pack.context(),
              frame
                  .pagedStoreStatistics
                  .reserved(0)
                  .store(store())
                  .device_bytes(element(all, 0))
                  .host_bytes(element(all, 1))
                  .fetched(element(all, 2))
                  .written_back(element(all, 3))
                  .hits(element(all, 4))
                  .misses(element(all, 5))));
      return new Statistics(all.get(0), all.get(1), all.get(2), all.get(3), all.get(4), all.get(5));
    }
  }

  private static LongPointer element(LongPointer array, int index) {
    return new LongPointer(new DeviceAddress(array.address() + (long) index * Long.BYTES));
  }

  private DeviceAddress store() {
    if (closed) {
      throw new IllegalStateException("this PagedStore was closed");
    }
    return new DeviceAddress(handle);
  }

  private void release(long page, boolean dirty) {
    synchronized (pack.lock()) {
      Status.check(
          qlora4j.q4j_paged_store_release(
              pack.context(),
              pack.frame().pagedStoreRelease.dirty(dirty ? 1 : 0).store(store()).page(page)));
    }
  }

  /**
   * Waits for the store's own work and frees it. Pages that are still acquired become unusable. A
   * second call does nothing.
   */
  @Override
  public void close() {
    synchronized (pack.lock()) {
      if (closed) {
        return;
      }
      closed = true;
      alarm.disarm();
      pack.abandon(handle, deviceBytes);
    }
  }

  @Override
  public String toString() {
    return "PagedStore[" + options + " on " + pack.name() + "]";
  }

  /**
   * A page that is resident. {@link #release} says whether work wrote to it; {@link #close} without
   * it, as after an exception, releases the page as written to, which is never wrong.
   */
  public final class Page implements AutoCloseable {
    private final long number;
    private final DeviceBuffer buffer;
    private boolean released;

    private Page(long number, long address) {
      this.number = number;
      this.buffer = DeviceBuffer.wrap(pack, new DeviceAddress(address), options.pageBytes());
    }

    /** The page's number. */
    public long number() {
      return number;
    }

    /** The page's memory; unusable once the page is released or the store closed. */
    public DeviceBuffer buffer() {
      if (closed) {
        buffer.close();
      }
      return buffer;
    }

    /**
     * A contiguous part of the page as a tensor.
     *
     * @param byteOffset start within the page
     */
    public DeviceTensor tensor(long byteOffset, DType dtype, long... shape) {
      return DeviceTensor.of(buffer(), byteOffset, dtype, shape);
    }

    /**
     * Gives the page back.
     *
     * @param dirty whether work that was called since the acquisition wrote to it
     * @throws IllegalStateException when that was done before, or the store was closed
     */
    public void release(boolean dirty) {
      if (released) {
        throw new IllegalStateException("page " + number + " was released before");
      }
      released = true;
      buffer.close();
      PagedStore.this.release(number, dirty);
    }

    @Override
    public void close() {
      if (!released && !closed) {
        release(true);
      }
    }

    @Override
    public String toString() {
      return "page " + number + (released ? ", released" : "") + " of " + PagedStore.this;
    }
  }
}
