// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.BiConsumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicContainer;
import org.junit.jupiter.api.DynamicNode;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.TestInstance;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;

/**
 * Runs the cases of one operator on every pack of this machine and compares the outputs with those
 * of the reference pack.
 *
 * <p>A subclass lists cases. A case computes on whatever pack it is given and names its outputs
 * with their tolerances; this class runs it twice, compares, checks the guard bytes, and prints for
 * every pack the worst coordinate and the share of its tolerance that it used.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
public abstract class ParityTest {
  /** Multiply-adds above which the packs that simulate a GPU leave a case out. */
  private static final long SLOW_LIMIT = 2_000_000;

  private final Map<String, Worst> worst = new TreeMap<>();
  private final Map<String, Integer> counts = new TreeMap<>();

  /** What one case computed on one pack. */
  public static final class Outputs {
    private record Output(
        String name, DType type, float[] values, Tolerance tolerance, long cols) {}

    private final List<Output> list = new ArrayList<>();

    /** A float output. */
    public void add(String name, DeviceTensor tensor, Tolerance tolerance) {
      list.add(new Output(name, tensor.dtype(), tensor.toFloats(), tolerance, tensor.cols()));
    }

    /** An output of bytes or integers, compared exactly. */
    public void addExact(String name, DeviceTensor tensor) {
      byte[] bytes = tensor.toBytes();
      float[] values = new float[bytes.length];
      for (int i = 0; i < bytes.length; i++) {
        values[i] = bytes[i] & 0xff;
      }
      list.add(
          new Output(
              name,
              tensor.dtype(),
              values,
              Tolerance.EXACT,
              tensor.cols() * tensor.dtype().bytes()));
    }

    /** A number the operator returned. */
    public void add(String name, double value, Tolerance tolerance) {
      list.add(new Output(name, DType.F32, new float[] {(float) value}, tolerance, 1));
    }
  }

  /**
   * One case.
   *
   * @param name shape and options, the seed included
   * @param operator the ABI's operator that must be there
   * @param work multiply-adds, roughly
   * @param compute runs the operator on the memory's pack
   */
  public record Case(
      String name, String operator, long work, BiConsumer<DeviceMemory, Outputs> compute) {}

  /** The cases of the operator. */
  protected abstract List<Case> cases();

  @TestFactory
  final Stream<DynamicNode> everyPack() {
    return Packs.names(false).stream()
        .map(
            name ->
                Packs.opens(name)
                    ? DynamicContainer.dynamicContainer(name, tests(Packs.open(name)))
                    // One skipped test that says why.
                    : DynamicTest.dynamicTest(name, () -> Packs.open(name)));
  }

  /** One test per case, and one skipped test per operator that the pack leaves out. */
  private Stream<DynamicTest> tests(KernelPack pack) {
    List<Case> all = cases();
    Stream<DynamicTest> missing =
        all.stream()
            .map(Case::operator)
            .distinct()
            .filter(operator -> !pack.supports(operator))
            .map(
                operator ->
                    DynamicTest.dynamicTest(operator, () -> requireOperator(pack, operator)));
    Stream<DynamicTest> present =
        all.stream()
            .filter(c -> pack.supports(c.operator()))
            .map(c -> DynamicTest.dynamicTest(c.name(), () -> check(pack, c)));
    return Stream.concat(missing, present);
  }

  private static void requireOperator(KernelPack pack, String operator) {
    Assumptions.assumeTrue(
        pack.supports(operator), () -> pack.name() + " leaves " + operator + " out");
  }

  /** All cases, for running them on a pack of one's own. */
  public final List<Case> allCases() {
    return cases();
  }

  /**
   * Runs a case on the reference and on {@code pack} and compares.
   *
   * @throws AssertionError when an output exceeds its tolerance or a guard byte was touched
   */
  public final void check(KernelPack pack, Case c) {
    requireOperator(pack, c.operator());
    Assumptions.assumeTrue(
        !Packs.isSlow(pack) || c.work() <= SLOW_LIMIT,
        () -> pack.name() + " simulates a GPU and is too slow for this case");
    Outputs expected = run(Packs.reference(), c);
    Outputs actual = run(pack, c);
    List<Comparison> failures = new ArrayList<>();
    for (int i = 0; i < expected.list.size(); i++) {
      Outputs.Output e = expected.list.get(i);
      Outputs.Output a = actual.list.get(i);
      Comparison comparison =
          Comparison.of(e.name(), e.values(), a.values(), e.tolerance(), e.cols());
      record(pack.name(), c.name(), comparison);
      if (!comparison.passes()) {
        failures.add(comparison);
      }
    }
    if (!failures.isEmpty()) {
      throw new AssertionError(pack.name() + ", " + c.name() + ": " + failures);
    }
  }

  private Outputs run(KernelPack pack, Case c) {
    try (DeviceMemory memory = new DeviceMemory(pack)) {
      Outputs outputs = new Outputs();
      c.compute().accept(memory, outputs);
      memory.checkGuards();
      return outputs;
    }
  }

  private synchronized void record(String pack, String caseName, Comparison comparison) {
    counts.merge(pack, 1, Integer::sum);
    Worst next = new Worst(caseName, comparison);
    worst.merge(
        pack,
        next,
        (a, b) ->
            a.comparison().worst() < 0 || b.comparison().share() > a.comparison().share() ? b : a);
  }

  private record Worst(String caseName, Comparison comparison) {}

  @AfterAll
  final void report() {
    worst.forEach(
        (pack, w) ->
            System.out.println(
                String.format(
                    Locale.ROOT,
                    "parity %s on %s: %d outputs, worst in \"%s\": %s",
                    getClass().getSimpleName(),
                    pack,
                    counts.get(pack),
                    w.caseName(),
                    w.comparison())));
  }
}
