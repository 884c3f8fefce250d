// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.ToDoubleFunction;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PagedStore;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.train.AdamWOptimizer;
import org.qlora4j.train.AdamWOptimizer.Paging;
import org.qlora4j.train.AdamWOptimizer.States;
import org.qlora4j.train.MemoryBudget;
import org.qlora4j.train.OptimizerMemory;

/**
 * The optimizer with its states in every place and precision: paging changes no bit of parameters
 * and states, a restored optimizer goes on with the same bits, and what is paged stays within its
 * budget.
 */
class OptimizerStatesTest {
  private static final long SEED = 20261127;
  private static final AdamWOptimizer.Settings SETTINGS =
      new AdamWOptimizer.Settings(0.9, 0.999, 1e-8, 0.01, 0.3);

  /** Above and below 4096 elements, at the border, not a multiple of a block, larger than pages. */
  private static final long[][] SHAPES = {
    {64}, {70, 100}, {4095}, {4096}, {8, 3000}, {1}, {33, 333}, {256, 160}, {1000}
  };

  private final Path directory;

  OptimizerStatesTest(@TempDir Path directory) {
    this.directory = directory;
  }

  private static Stream<String> packs() {
    return Packs.names(true).stream();
  }

  /** Parameters with gradients that are drawn anew for every step. */
  private static final class Trained implements AutoCloseable {
    private final ParameterSet parameters;
    private final List<AdamWOptimizer> optimizers = new ArrayList<>();

    Trained(KernelPack pack) {
      parameters = new ParameterSet(pack);
      Randoms random = new Randoms(SEED);
      for (int i = 0; i < SHAPES.length; i++) {
        Parameter parameter = parameters.add("p" + i, SHAPES[i]);
        parameter.value().copyFrom(random.normal(parameter.value().elements(), 0.1));
      }
      parameters.allocateGradients();
    }

    AdamWOptimizer optimizer(KernelPack pack, States states) {
      return optimizer(pack, states, parameter -> 1);
    }

    AdamWOptimizer optimizer(
        KernelPack pack, States states, ToDoubleFunction<Parameter> rateFactors) {
      AdamWOptimizer optimizer =
          new AdamWOptimizer(pack, parameters, SETTINGS, states, rateFactors);
      optimizers.add(optimizer);
      return optimizer;
    }

    /** Steps from the optimizer's to number {@code last}; the norms. */
    List<Double> steps(AdamWOptimizer optimizer, int last) {
      List<Double> norms = new ArrayList<>();
      while (optimizer.steps() < last) {
        Randoms random = new Randoms(SEED + 1 + optimizer.steps());
        for (Parameter parameter : parameters.parameters()) {
          parameter.gradient().copyFrom(random.wide(parameter.value().elements(), 4));
        }
        norms.add(optimizer.step(1e-3));
      }
      return norms;
    }

    List<byte[]> values() {
      return parameters.parameters().stream().map(p -> p.value().toBytes()).toList();
    }

    @Override
    public void close() {
      optimizers.forEach(AdamWOptimizer::close);
      parameters.close();
    }
  }

  private States paged(boolean eightBit, double share) {
    return new States(eightBit, new Paging(MemoryBudget.ofShare(share), directory));
  }

  private static KernelPack open(String name) {
    KernelPack pack = Packs.open(name);
    for (String operator : List.of("adamw", "adamw_8bit", "gradient_norm")) {
      Assumptions.assumeTrue(pack.supports(operator), () -> name + " leaves " + operator + " out");
    }
    Assumptions.assumeTrue(PagedStore.isSupported(pack), () -> name + " has no paged store");
    return pack;
  }

  private static void assertSame(List<byte[]> expected, List<byte[]> actual, String what) {
    for (int i = 0; i < expected.size(); i++) {
      assertArrayEquals(expected.get(i), actual.get(i), what + ": parameter " + i);
    }
  }

  /** The gradients are the same, and so their norm; then a parameter knows its own rate only. */
  @ParameterizedTest
  @MethodSource("packs")
  void eachParameterFollowsItsOwnRate(String name) {
    KernelPack pack = open(name);
    for (States states : List.of(new States(false, null), paged(true, 0.4))) {
      List<byte[]> slow = afterSteps(pack, states, parameter -> 1);
      List<byte[]> fast = afterSteps(pack, states, parameter -> 8);
      List<byte[]> mixed = afterSteps(pack, states, p -> p.name().matches("p[02468]") ? 1 : 8);
      for (int i = 0; i < mixed.size(); i++) {
        assertArrayEquals((i % 2 == 0 ? slow : fast).get(i), mixed.get(i), name + " p" + i);
        assertFalse(Arrays.equals(slow.get(i), fast.get(i)), "the rate matters");
      }
    }
  }

  private static List<byte[]> afterSteps(
      KernelPack pack, States states, ToDoubleFunction<Parameter> rateFactors) {
    try (Trained trained = new Trained(pack)) {
      trained.steps(trained.optimizer(pack, states, rateFactors), 3);
      return trained.values();
    }
  }

  @ParameterizedTest
  @MethodSource("packs")
  void pagingChangesNoBit(String name) throws IOException {
    KernelPack pack = open(name);
    for (boolean eightBit : new boolean[] {false, true}) {
      Path resident = directory.resolve("resident.safetensors");
      Path paged = directory.resolve("paged.safetensors");
      List<byte[]> expected;
      List<Double> norms;
      long total;
      try (Trained trained = new Trained(pack)) {
        AdamWOptimizer optimizer = trained.optimizer(pack, new States(eightBit, null));
        norms = trained.steps(optimizer, 6);
        expected = trained.values();
        optimizer.write(resident);
        OptimizerMemory memory = optimizer.memory();
        total = memory.totalBytes();
        assertFalse(memory.paged());
        assertTrue(memory.held().residentBytes() >= total, memory.toString());
        assertEquals(0, memory.held().bytesIn() + memory.held().bytesOut());
      }
      for (double share : new double[] {1e-9, 0.25, 0.6, 1}) {
        String what = name + ", " + (eightBit ? "8 bits, " : "32 bits, ") + share + " resident";
        try (Trained trained = new Trained(pack)) {
          AdamWOptimizer optimizer = trained.optimizer(pack, paged(eightBit, share));
          assertEquals(norms, trained.steps(optimizer, 6), what);
          assertSame(expected, trained.values(), what);
          optimizer.write(paged);
          assertEquals(-1, Files.mismatch(resident, paged), what + ": the states");
          OptimizerMemory memory = optimizer.memory();
          assertTrue(memory.paged());
          assertEquals(total, memory.totalBytes());
          if (share == 0.25 && !eightBit) {
            // Alignment of nine tensors adds a little to what the quarter is taken of.
            assertTrue(memory.held().residentBytes() <= 0.26 * total, what + ": " + memory);
          }
          if (!name.equals(Packs.REFERENCE)) {
            assertEquals(share < 1, memory.held().bytesIn() > 0, what + ": " + memory);
            assertEquals(share < 1, memory.held().bytesOut() > 0, what + ": " + memory);
            assertEquals(0, memory.held().misses(), what + ": pages are fetched ahead");
          }
        }
      }
    }
  }

  @ParameterizedTest
  @MethodSource("packs")
  void aRestoredOptimizerGoesOnWithTheSameBits(String name) {
    KernelPack pack = open(name);
    for (boolean eightBit : new boolean[] {false, true}) {
      List<States> places = List.of(new States(eightBit, null), paged(eightBit, 0.25));
      for (States before : places) {
        for (States after : places) {
          String what = name + ", " + before + " goes on with " + after;
          Path file = directory.resolve("states.safetensors");
          List<byte[]> expected;
          try (Trained trained = new Trained(pack)) {
            trained.steps(trained.optimizer(pack, before), 6);
            expected = trained.values();
          }
          try (Trained trained = new Trained(pack)) {
            AdamWOptimizer first = trained.optimizer(pack, before);
            trained.steps(first, 3);
            first.write(file);
            AdamWOptimizer second = trained.optimizer(pack, after);
            second.read(file, 3);
            trained.steps(second, 6);
            assertSame(expected, trained.values(), what);
          }
        }
      }
    }
  }

  /** bitsandbytes' rule: tensors below 4096 elements keep 32 bits, and so train as ever. */
  @Test
  void smallTensorsKeep32Bits() {
    KernelPack pack = Packs.reference();
    Path file = directory.resolve("states.safetensors");
    List<byte[]> exact;
    try (Trained trained = new Trained(pack)) {
      trained.steps(trained.optimizer(pack, States.PLAIN), 4);
      exact = trained.values();
    }
    try (Trained trained = new Trained(pack)) {
      AdamWOptimizer optimizer = trained.optimizer(pack, new States(true, null));
      trained.steps(optimizer, 4);
      optimizer.write(file);
      List<byte[]> values = trained.values();
      long bytes = 0;
      try (SafetensorsFile states = SafetensorsFile.open(file)) {
        for (int i = 0; i < SHAPES.length; i++) {
          long elements = trained.parameters.parameters().get(i).value().elements();
          boolean small = elements < 4096;
          boolean same = Arrays.equals(exact.get(i), values.get(i));
          assertEquals(small, same, "parameter " + i);
          if (small) {
            assertEquals(StoredType.F32, states.tensor("exp_avg.p" + i).storedType());
            assertEquals(elements, states.tensor("exp_avg_sq.p" + i).elements());
            bytes += 8 * elements;
          } else {
            long blocks = (elements + 255) / 256;
            assertEquals(StoredType.U8, states.tensor("state1.p" + i).storedType());
            assertArrayEquals(SHAPES[i], states.tensor("state2.p" + i).shape());
            assertEquals(blocks, states.tensor("absmax1.p" + i).elements());
            assertEquals(StoredType.F32, states.tensor("absmax2.p" + i).storedType());
            bytes += 2 * elements + 8 * blocks;
          }
        }
      }
      assertEquals(bytes, optimizer.memory().totalBytes());
    }
  }

  @Test
  void statesOfAnotherPrecisionDoNotFit() {
    KernelPack pack = Packs.reference();
    Path file = directory.resolve("states.safetensors");
    try (Trained trained = new Trained(pack)) {
      AdamWOptimizer plain = trained.optimizer(pack, States.PLAIN);
      plain.write(file);
      AdamWOptimizer eightBit = trained.optimizer(pack, new States(true, null));
      assertRefused(() -> eightBit.read(file, 0), "states.safetensors", "state1.p1");
      eightBit.write(file);
      assertRefused(() -> plain.read(file, 0), "states.safetensors", "exp_avg.p1");
    }
  }

  /** A gradient that is not finite changes neither parameters nor states. */
  @Test
  void aNormThatIsNotFiniteChangesNothing() {
    KernelPack pack = Packs.reference();
    try (Trained trained = new Trained(pack)) {
      AdamWOptimizer optimizer = trained.optimizer(pack, paged(true, 0.25));
      trained.steps(optimizer, 1);
      List<byte[]> before = trained.values();
      trained.parameters.parameters().get(0).gradient().copyFrom(filled(64, Float.NaN));
      assertTrue(Double.isNaN(optimizer.step(1e-3)));
      assertEquals(1, optimizer.steps());
      assertSame(before, trained.values(), "after a NaN");
    }
  }

  private static float[] filled(int count, float value) {
    float[] values = new float[count];
    Arrays.fill(values, value);
    return values;
  }

  /** The file of a CPU pack: refused where it cannot be made, one line when it fails later. */
  @ParameterizedTest
  @MethodSource("packs")
  void disksThatFailAreOneLine(String name) throws IOException {
    KernelPack pack = open(name);
    Assumptions.assumeTrue(name.startsWith("cpu-"), () -> name + " makes no file");
    try (Trained trained = new Trained(pack)) {
      for (Path nowhere : List.of(directory.resolve("absent"), Path.of("/sys"))) {
        States states = new States(false, new Paging(MemoryBudget.ofShare(0.25), nowhere));
        assertRefused(() -> trained.optimizer(pack, states), "paging_dir", nowhere.toString());
      }
      AdamWOptimizer optimizer = trained.optimizer(pack, paged(false, 0.25));
      trained.steps(optimizer, 2);
      // Reads every page, so that no write-back is on its way when the file becomes too short.
      optimizer.write(directory.resolve("before"));
      assertNotEquals(0, cutPageFiles(), "no file of pages is open");
      String message = assertRefused(() -> trained.steps(optimizer, 4), "pages", "--resume");
      assertRefused(() -> optimizer.write(directory.resolve("lost")), "pages", "--resume");
      assertFalse(Files.exists(directory.resolve("lost")), message);
    }
  }

  /** Cuts the unnamed files of pages that this process has open in the test's directory to 0. */
  private int cutPageFiles() throws IOException {
    int cut = 0;
    try (Stream<Path> descriptors = Files.list(Path.of("/proc/self/fd"))) {
      for (Path descriptor : descriptors.toList()) {
        String target;
        try {
          target = Files.readSymbolicLink(descriptor).toString();
        } catch (IOException e) {
          continue;
        }
        if (target.startsWith(directory.toRealPath() + "/qlora4j-pages-")) {
          try (FileChannel file = FileChannel.open(descriptor, StandardOpenOption.WRITE)) {
            file.truncate(0);
            cut++;
          }
        }
      }
    }
    return cut;
  }
}
