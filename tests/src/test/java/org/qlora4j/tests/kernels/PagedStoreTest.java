// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicContainer;
import org.junit.jupiter.api.DynamicNode;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.MomentPages;
import org.qlora4j.kernels.MomentPages.Format;
import org.qlora4j.kernels.MomentPages.Part;
import org.qlora4j.kernels.OutOfDeviceMemoryException;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.PagedStore;
import org.qlora4j.kernels.PagedStore.Options;
import org.qlora4j.kernels.PagedStore.Page;
import org.qlora4j.kernels.PagedStore.Statistics;
import org.qlora4j.kernels.PagedStore.Strategy;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.Randoms;

/**
 * The paged store of every pack: a page holds what was written to it, whatever the order of calls,
 * the budget and the way pages move; and an optimizer does not see that its moments are paged.
 */
class PagedStoreTest {
  private static final int SEED = 5150;

  /** Where packs that page to a file are told to make it. */
  private Path directory = Path.of("");

  @TestFactory
  Stream<DynamicNode> everyPack(@TempDir Path folder) {
    directory = folder;
    return Packs.names(true).stream()
        .map(
            name ->
                Packs.opens(name)
                    ? DynamicContainer.dynamicContainer(name, tests(Packs.open(name)))
                    // One skipped test that says why.
                    : DynamicTest.dynamicTest(name, () -> Packs.open(name)));
  }

  private Stream<DynamicTest> tests(KernelPack pack) {
    List<DynamicTest> tests = new ArrayList<>();
    test(tests, pack, "reports what is wrong", this::reportsWhatIsWrong);
    test(tests, pack, "handles end once", this::handlesEndOnce);
    test(tests, pack, "copies any range of a page", this::copiesAnyRange);
    test(tests, pack, "a plan leaves no misses", this::planLeavesNoMisses);
    test(tests, pack, "all resident: nothing moves", this::nothingMovesWithoutNeed);
    for (Ways way : ways(pack)) {
      for (int seed = 0; seed < 20; seed++) {
        int chosen = seed;
        test(
            tests,
            pack,
            "any order of calls, " + way.name() + ", seed " + seed,
            p -> anyOrder(p, way, chosen));
      }
      for (long budget : new long[] {2, 3, 6, 12}) {
        test(
            tests,
            pack,
            "AdamW with " + budget + " of 12 pages, " + way.name(),
            p -> adamWSeesNoPages(p, way, budget));
      }
    }
    return tests.stream();
  }

  private static void test(
      List<DynamicTest> tests, KernelPack pack, String name, Consumer<KernelPack> body) {
    tests.add(
        DynamicTest.dynamicTest(
            name,
            () -> {
              Assumptions.assumeTrue(
                  PagedStore.isSupported(pack), () -> pack.name() + " leaves paged_store out");
              long before = pack.allocatedBytes();
              body.accept(pack);
              assertEquals(before, pack.allocatedBytes(), "a store was not freed, or not counted");
            }));
  }

  /** One way to page. */
  private record Ways(String name, Strategy strategy, boolean toFile) {
    Options options(Path directory, long pages, long pageBytes, long residentBytes) {
      return new Options(pages, pageBytes, residentBytes, strategy, toFile ? directory : null);
    }
  }

  private static List<Ways> ways(KernelPack pack) {
    List<Ways> ways = new ArrayList<>(List.of(new Ways("copies", Strategy.COPIES, false)));
    if (pack.name().startsWith("cpu-")) {
      ways.add(new Ways("copies to a file", Strategy.AUTO, true));
    }
    if (pack.name().startsWith("cuda")) {
      ways.add(new Ways("managed memory", Strategy.MANAGED, false));
    }
    return ways;
  }

  /** A device without managed memory skips the test with the pack's reason. */
  private PagedStore create(KernelPack pack, Options options) {
    try {
      return PagedStore.create(pack, options);
    } catch (UnsupportedOperationException e) {
      Assumptions.assumeTrue(options.strategy() != Strategy.MANAGED, e.getMessage());
      throw e;
    }
  }

  private void anyOrder(KernelPack pack, Ways way, int seed) {
    Randoms random = new Randoms(SEED + seed);
    int pages = 1 + random.below(9);
    int budget = pages == 1 ? 1 : 2 + random.below(pages);
    int pageBytes = 256 * (1 + random.below(40));
    byte[][] contents = new byte[pages][pageBytes];
    List<Page> held = new ArrayList<>();
    long[] plan = {};
    int step = 0;
    long acquisitions = 0;
    Options options =
        way.options(directory, pages, pageBytes, (long) budget * pageBytes + random.below(256));
    try (PagedStore store = create(pack, options)) {
      for (int call = 0; call < 250; call++) {
        int what = random.below(100);
        int number = random.below(pages);
        if (what < 4) {
          plan = new long[random.below(14)];
          Arrays.setAll(plan, i -> random.below(pages));
          step = 0;
          store.plan(plan);
        } else if (what < 10) {
          int offset = random.below(pageBytes);
          byte[] bytes = random.bytes(random.below(pageBytes - offset + 1));
          store.writePage(number, offset, ByteBuffer.wrap(bytes));
          System.arraycopy(bytes, 0, contents[number], offset, bytes.length);
        } else if (what < 16) {
          byte[] bytes = new byte[pageBytes];
          store.readPage(number, 0, ByteBuffer.wrap(bytes));
          assertArrayEquals(contents[number], bytes, "page " + number + " in call " + call);
        } else if (what < 60) {
          if (plan.length > 0 && random.below(8) > 0) {
            number = (int) plan[step++ % plan.length];
          }
          int wanted = number;
          boolean full =
              new HashSet<>(held.stream().map(Page::number).toList()).size()
                      == Math.min(pages, budget)
                  && held.stream().noneMatch(page -> page.number() == wanted);
          if (full) {
            assertThrows(OutOfDeviceMemoryException.class, () -> store.acquire(wanted));
            continue;
          }
          Page page = store.acquire(number);
          acquisitions++;
          held.add(page);
          byte[] bytes = new byte[pageBytes];
          page.buffer().copyOut(0, ByteBuffer.wrap(bytes));
          assertArrayEquals(contents[number], bytes, "page " + number + " in call " + call);
          if (random.below(3) > 0) {
            int offset = random.below(pageBytes);
            byte[] next = random.bytes(random.below(pageBytes - offset + 1));
            page.buffer().copyIn(offset, ByteBuffer.wrap(next));
            System.arraycopy(next, 0, contents[number], offset, next.length);
            // A second acquisition, whose release says that the page was written to.
            Page again = store.acquire(number);
            acquisitions++;
            assertEquals(page.buffer().pointer().address(), again.buffer().pointer().address());
            again.release(true);
          }
        } else if (!held.isEmpty()) {
          held.remove(random.below(held.size())).release(random.below(2) == 0);
        }
      }
      for (int number = 0; number < pages; number++) {
        byte[] bytes = new byte[pageBytes];
        store.readPage(number, 0, ByteBuffer.wrap(bytes));
        assertArrayEquals(contents[number], bytes, "page " + number + " in the end");
      }
      Statistics statistics = store.statistics();
      assertEquals((long) Math.min(pages, budget) * pageBytes, statistics.deviceBytes());
      assertTrue(statistics.deviceBytes() <= options.residentBytes());
      assertEquals(acquisitions, statistics.hits() + statistics.misses());
    }
  }

  private void planLeavesNoMisses(KernelPack pack) {
    Assumptions.assumeFalse(
        pack.name().equals(Packs.REFERENCE), "the reference ignores plans, as it says");
    int pages = 20;
    int rounds = 10;
    try (PagedStore store = create(pack, Options.of(pages, 512, 10 * 512))) {
      long[] order = new long[pages];
      Arrays.setAll(order, i -> i);
      store.plan(order);
      for (int i = 0; i < rounds * pages; i++) {
        try (Page page = store.acquire(i % pages)) {
          page.buffer().fill(i % 128);
          page.release(true);
        }
      }
      Statistics statistics = store.statistics();
      assertEquals(0, statistics.misses(), statistics.toString());
      assertEquals((long) rounds * pages, statistics.hits());
      // Half of the pages stay: P (P - F) / (P - 3) = 11.8 move in a round, not 20.
      assertTrue(statistics.writtenBack() <= rounds * 12L, statistics.toString());
      assertTrue(statistics.fetched() <= statistics.writtenBack(), statistics.toString());
      assertTrue(statistics.fetched() >= (rounds - 2) * 10L, statistics.toString());
      // Off the plan, and forgotten: the next acquisition is a miss, and what was there is found.
      store.plan();
      for (int i = 0; i < pages; i++) {
        try (Page page = store.acquire(pages - 1 - i)) {
          byte[] bytes = new byte[512];
          page.buffer().copyOut(0, ByteBuffer.wrap(bytes));
          assertEquals((rounds * pages - 1 - i) % 128, bytes[511]);
          page.release(false);
        }
      }
      assertTrue(store.statistics().misses() >= 10);
    }
  }

  private void nothingMovesWithoutNeed(KernelPack pack) {
    try (PagedStore store = create(pack, Options.of(5, 256, 5 * 256))) {
      store.plan(0, 1, 2, 3, 4);
      store.writePage(3, 255, ByteBuffer.wrap(new byte[] {9}));
      for (int i = 0; i < 20; i++) {
        try (Page page = store.acquire(i % 5)) {
          page.release(true);
        }
      }
      byte[] last = new byte[2];
      store.readPage(3, 254, ByteBuffer.wrap(last));
      assertArrayEquals(new byte[] {0, 9}, last);
      Statistics statistics = store.statistics();
      assertEquals(0, statistics.writtenBack());
      assertEquals(5 * 256, statistics.deviceBytes());
    }
  }

  private void reportsWhatIsWrong(KernelPack pack) {
    try (PagedStore store = create(pack, Options.of(4, 512, 1024))) {
      message(IllegalArgumentException.class, "page 4 of 4", () -> store.acquire(4));
      message(IllegalArgumentException.class, "page", () -> store.acquire(-1));
      message(IllegalArgumentException.class, "order[1] is page 4 of 4", () -> store.plan(0, 4));
      Page first = store.acquire(0);
      Page second = store.acquire(1);
      message(
          OutOfDeviceMemoryException.class,
          "all 2 resident pages are acquired; release one, or raise resident_bytes",
          () -> store.acquire(2));
      first.release(false);
      store.acquire(2).release(false);
      second.release(false);
      message(
          IllegalArgumentException.class,
          "3 bytes at 510 of page 1, of 4 pages of 512 bytes",
          () -> store.readPage(1, 510, ByteBuffer.allocate(3)));
      message(
          IllegalArgumentException.class,
          "read-only",
          () -> store.readPage(1, 0, ByteBuffer.allocate(3).asReadOnlyBuffer()));
    }
    message(
        IllegalArgumentException.class,
        "must hold two pages of 512 bytes",
        () -> PagedStore.create(pack, Options.of(4, 512, 1023)));
    message(
        IllegalArgumentException.class,
        "multiple of 256",
        () -> PagedStore.create(pack, Options.of(4, 300, 1024)));
    message(
        OutOfDeviceMemoryException.class,
        "",
        () -> PagedStore.create(pack, Options.of(4, 1L << 46, 1L << 48)));
    if (pack.name().startsWith("cpu-")) {
      message(
          UnsupportedOperationException.class,
          "managed memory",
          () -> PagedStore.create(pack, Options.of(4, 512, 1024).withStrategy(Strategy.MANAGED)));
      Path missing = directory.resolve("missing");
      message(
          IllegalArgumentException.class,
          missing + ": No such file or directory",
          () -> PagedStore.create(pack, Options.of(4, 512, 1024).withDirectory(missing)));
      message(
          OutOfDeviceMemoryException.class,
          directory + " has no room for",
          () ->
              PagedStore.create(
                  pack, Options.of(1 << 24, 1 << 23, 1 << 24).withDirectory(directory)));
      try (Stream<Path> left = Files.list(directory)) {
        assertEquals(List.of(), left.toList());
      } catch (IOException e) {
        throw new AssertionError(e);
      }
    }
  }

  private static void message(
      Class<? extends RuntimeException> type, String text, Runnable action) {
    RuntimeException error = assertThrows(type, action::run);
    assertEquals(type, error.getClass());
    assertTrue(String.valueOf(error.getMessage()).contains(text), error.getMessage());
  }

  private void handlesEndOnce(KernelPack pack) {
    PagedStore store = create(pack, Options.of(3, 512, 1024));
    Page page = store.acquire(1);
    assertEquals(1, page.number());
    assertEquals(512, page.buffer().bytes());
    DeviceTensor tensor = page.tensor(256, DType.F32, 2, 32);
    tensor.copyFrom(new Randoms(SEED).normal(64, 1));
    float[] written = tensor.toFloats();
    assertThrows(IndexOutOfBoundsException.class, () -> page.tensor(256, DType.F32, 65));
    page.close();
    page.close();
    assertThrows(IllegalStateException.class, () -> page.release(true));
    assertThrows(IllegalStateException.class, tensor::toFloats);
    // Closing alone counts as written to.
    store.acquire(0).release(false);
    store.acquire(2).release(false);
    try (Page again = store.acquire(1)) {
      assertArrayEquals(written, again.tensor(256, DType.F32, 64).toFloats());
    }
    Page open = store.acquire(0);
    DeviceBuffer buffer = open.buffer();
    store.close();
    store.close();
    open.close();
    assertThrows(IllegalStateException.class, () -> open.buffer().fill(0));
    assertThrows(IllegalStateException.class, () -> buffer.fill(0));
    assertThrows(IllegalStateException.class, () -> store.acquire(0));
    assertThrows(IllegalStateException.class, store::statistics);
  }

  private void copiesAnyRange(KernelPack pack) {
    // Larger than the bridge that heap buffers travel through, and no multiple of it.
    int bytes = 5 << 19;
    byte[] content = new Randoms(SEED).bytes(bytes);
    ByteBuffer direct = ByteBuffer.allocateDirect(bytes + 3);
    direct.position(3);
    direct.put(content).position(3);
    try (PagedStore store = create(pack, Options.of(3, bytes, 2L * bytes))) {
      store.writePage(0, 0, ByteBuffer.wrap(content));
      store.writePage(1, 0, direct);
      assertEquals(3, direct.position());
      for (int number = 2; number >= 0; number--) {
        store.acquire(number).release(false); // the first of them leaves again
      }
      for (int number = 0; number < 2; number++) {
        byte[] heap = new byte[bytes - 7];
        store.readPage(number, 7, ByteBuffer.wrap(heap));
        assertArrayEquals(Arrays.copyOfRange(content, 7, bytes), heap);
        ByteBuffer back = ByteBuffer.allocateDirect(bytes + 1).position(1);
        store.readPage(number, 0, back);
        assertEquals(1, back.position());
        assertEquals(ByteBuffer.wrap(content), back);
      }
      store.readPage(2, bytes, ByteBuffer.allocate(0));
    }
  }

  /** Several steps of AdamW with moments in pages and with moments in memory: the same bits. */
  private void adamWSeesNoPages(KernelPack pack, Ways way, long budget) {
    Assumptions.assumeTrue(pack.supports("adamw"), () -> pack.name() + " leaves adamw out");
    int[] lengths = {1000, 1, 0, 511, 4000, 256, 257, 3000, 2048, 77};
    MomentPages layout =
        new MomentPages(
            Format.F32, 1024, Arrays.stream(lengths).mapToLong(length -> length).toArray());
    assertEquals(12, layout.count());
    AdamW.Options options = new AdamW.Options(2e-3, 0.9, 0.999, 1e-8);
    Randoms random = new Randoms(SEED);
    try (DeviceMemory memory = new DeviceMemory(pack);
        PagedStore store =
            create(
                pack,
                way.options(
                    directory, layout.count(), layout.pageBytes(), budget * layout.pageBytes()))) {
      List<DeviceTensor> paged = new ArrayList<>();
      List<DeviceTensor> gradients = new ArrayList<>();
      List<AdamW.Slot> resident = new ArrayList<>();
      float[] decays = new float[lengths.length];
      for (int i = 0; i < lengths.length; i++) {
        float[] start = random.normal(lengths[i], 0.1);
        decays[i] = i % 2 == 0 ? 0.01f : 0;
        paged.add(memory.of(DType.F32, start, lengths[i]));
        gradients.add(memory.empty(DType.F32, lengths[i]));
        resident.add(
            new AdamW.Slot(
                memory.of(DType.F32, start, lengths[i]),
                gradients.get(i),
                memory.zeros(DType.F32, lengths[i]),
                memory.zeros(DType.F32, lengths[i]),
                decays[i]));
      }
      store.plan(layout.order());
      for (int t = 1; t <= 5; t++) {
        for (DeviceTensor gradient : gradients) {
          gradient.copyFrom(random.wide(gradient.elements(), 4));
        }
        AdamW.step(pack, options, t, 0.5f, resident);
        for (int number = 0; number < layout.count(); number++) {
          try (Page page = store.acquire(number)) {
            layout.step(pack, number, page.buffer(), paged, gradients, decays, options, t, 0.5f);
            page.release(true);
          }
        }
      }
      for (int number = 0; number < layout.count(); number++) {
        try (Page page = store.acquire(number)) {
          for (MomentPages.Slice slice : layout.slices(number)) {
            AdamW.Slot slot = resident.get(slice.parameter());
            assertBits(
                part(slot.firstMoment(), slice), layout.tensor(page.buffer(), Part.FIRST, slice));
            assertBits(
                part(slot.secondMoment(), slice), layout.tensor(page.buffer(), Part.SECOND, slice));
          }
          page.release(false);
        }
      }
      for (int i = 0; i < lengths.length; i++) {
        assertBits(resident.get(i).parameter(), paged.get(i));
      }
      memory.checkGuards();
      Statistics statistics = store.statistics();
      assertTrue(statistics.deviceBytes() <= budget * layout.pageBytes());
      if (!pack.name().equals(Packs.REFERENCE)) {
        assertEquals(0, statistics.misses(), statistics.toString());
      }
    }
  }

  private static DeviceTensor part(DeviceTensor tensor, MomentPages.Slice slice) {
    return tensor.rows(slice.first(), slice.count());
  }

  private static void assertBits(DeviceTensor expected, DeviceTensor actual) {
    assertArrayEquals(expected.toBytes(), actual.toBytes());
  }

  /** A store that is still open when its pack is closed goes with it. */
  @Test
  void packTakesItsStoresAlong() {
    for (String name : Packs.names(true)) {
      if (!Packs.opens(name) || Packs.open(name).deviceKind() != DeviceKind.CPU) {
        continue;
      }
      KernelPack pack = KernelPack.open(PackOptions.defaults().withPack(name));
      if (!PagedStore.isSupported(pack)) {
        pack.close();
        continue;
      }
      PagedStore store = PagedStore.create(pack, Options.of(4, 512, 1024));
      store.plan(0, 1, 2, 3);
      assertEquals(1024, pack.allocatedBytes());
      pack.close();
      assertThrows(IllegalStateException.class, () -> store.acquire(0));
      store.close();
    }
  }

  /** Every element has its two places, nobody else's, and as many pages are full as can be. */
  @Test
  void momentsLieApart() {
    long[] lengths = {1000, 1, 0, 511, 4000, 256, 257, 3000, 2048, 77};
    MomentPages layout = new MomentPages(Format.F32, 1024, lengths);
    assertEquals(8192, layout.pageBytes());
    long[] seen = new long[lengths.length];
    for (int number = 0; number < layout.count(); number++) {
      long end = 0;
      for (MomentPages.Slice slice : layout.slices(number)) {
        assertEquals(seen[slice.parameter()], slice.first());
        seen[slice.parameter()] += slice.count();
        assertTrue(slice.count() > 0 && slice.start() >= end, slice.toString());
        assertEquals(0, slice.first() % MomentPages.ALIGNMENT);
        assertEquals(0, slice.start() % MomentPages.ALIGNMENT);
        end = slice.start() + slice.count();
      }
      assertTrue(end <= 1024);
      assertTrue(end > 1024 - MomentPages.ALIGNMENT || number == layout.count() - 1);
    }
    assertArrayEquals(lengths, seen);
    assertArrayEquals(new long[] {0, 1}, new MomentPages(Format.F32, 256, 257).order());
    assertEquals(0, new MomentPages(Format.F32, 256, 0, 0).count());
    assertThrows(IllegalArgumentException.class, () -> new MomentPages(Format.F32, 300, 1));
    assertThrows(IllegalArgumentException.class, () -> new MomentPages(Format.F32, 256, -1));
  }
}
