// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicContainer;
import org.junit.jupiter.api.DynamicNode;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.TestInstance;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;

/**
 * Runs every entry of a topic of fixtures on every pack of this machine, the reference included.
 * Prints the worst share of the tolerance per pack, and how many entries were read.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
public abstract class FixtureTest {
  private final String topic;
  private final Map<String, Comparison> worst = new TreeMap<>();
  private final Map<String, Integer> counts = new TreeMap<>();

  /** Tests of {@code topic}. */
  protected FixtureTest(String topic) {
    this.topic = topic;
  }

  /** The files this test reads, a subset of the topic's. */
  protected abstract List<String> names(Fixtures fixtures);

  /**
   * The ABI's operators that a file needs; a pack without one of them skips the file and says so.
   * Attention is not among them where a model computes: libtorch's stands in.
   */
  protected abstract List<String> operators(String name);

  /** Whether the files need libtorch on the pack's device. */
  protected boolean usesLibtorch() {
    return false;
  }

  /** Checks one file on the memory's pack. */
  protected abstract void check(Fixtures fixtures, String name, DeviceMemory memory);

  @TestFactory
  final Stream<DynamicNode> everyPack() {
    if (!Fixtures.has(topic)) {
      // One skipped test that says why.
      return Stream.of(DynamicTest.dynamicTest(topic, () -> Fixtures.topic(topic)));
    }
    Fixtures fixtures = Fixtures.topic(topic);
    return Packs.names(true).stream()
        .map(
            pack ->
                Packs.opens(pack)
                    ? DynamicContainer.dynamicContainer(
                        pack,
                        names(fixtures).stream()
                            .map(
                                name ->
                                    DynamicTest.dynamicTest(name, () -> run(fixtures, pack, name))))
                    : DynamicTest.dynamicTest(pack, () -> Packs.open(pack)));
  }

  private void run(Fixtures fixtures, String pack, String name) {
    KernelPack opened = Packs.open(pack);
    if (usesLibtorch()) {
      Packs.requireLibtorch(opened);
    }
    for (String operator : operators(name)) {
      Assumptions.assumeTrue(
          opened.supports(operator), () -> pack + " leaves " + operator + " out");
    }
    try (DeviceMemory memory = new DeviceMemory(opened)) {
      Fixtures.during(() -> check(fixtures, name, memory));
      memory.checkGuards();
    }
  }

  /** Compares an output with the fixture's and fails when it is too far off. */
  protected final void compare(
      DeviceMemory memory,
      String name,
      String output,
      float[] expected,
      DeviceTensor actual,
      Tolerance tolerance) {
    compare(memory, name, output, expected, actual.toFloats(), tolerance, actual.cols());
  }

  /** The same for values on the host. */
  protected final void compare(
      DeviceMemory memory,
      String name,
      String output,
      float[] expected,
      float[] actual,
      Tolerance tolerance,
      long cols) {
    Comparison comparison = Comparison.of(name + " " + output, expected, actual, tolerance, cols);
    synchronized (worst) {
      counts.merge(memory.pack().name(), 1, Integer::sum);
      worst.merge(
          memory.pack().name(),
          comparison,
          (a, b) -> a.worst() < 0 || b.share() > a.share() ? b : a);
    }
    comparison.orFail(memory.pack().name() + ", " + topic);
  }

  @AfterAll
  final void report() {
    worst.forEach(
        (pack, comparison) ->
            System.out.println(
                String.format(
                    Locale.ROOT,
                    "fixtures %s on %s: %d outputs, worst in %s",
                    topic,
                    pack,
                    counts.get(pack),
                    comparison)));
    if (Fixtures.has(topic)) {
      Fixtures.topic(topic).report();
    }
  }
}
