// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

/**
 * Runs the test classes named on the command line, for a machine that has a Java runtime and jars
 * but no Maven ({@code tests/gpu/check}). Prints every failure, every reason for a skipped test
 * with the number of tests it concerns, and a closing line. The exit status is 0 when tests ran and
 * none failed.
 */
public final class TestMain {
  private TestMain() {}

  private static final class Counts implements TestExecutionListener {
    private int passed;
    private int failed;
    private final Map<String, Integer> skipped = new TreeMap<>();

    @Override
    public synchronized void executionFinished(TestIdentifier id, TestExecutionResult result) {
      switch (result.getStatus()) {
        case FAILED -> {
          failed++;
          System.out.println("FAILED " + id.getUniqueId());
          result.getThrowable().ifPresent(failure -> failure.printStackTrace(System.out));
        }
        case ABORTED ->
            skipped.merge(
                result.getThrowable().map(Throwable::getMessage).orElse("no reason given"),
                1,
                Integer::sum);
        case SUCCESSFUL -> {
          if (id.isTest()) {
            passed++;
          }
        }
      }
    }

    @Override
    public synchronized void executionSkipped(TestIdentifier id, String reason) {
      skipped.merge(reason, 1, Integer::sum);
    }

    /** Prints the closing lines; whether tests ran and none failed. */
    private synchronized boolean report() {
      skipped.forEach((reason, count) -> System.out.println("skipped " + count + ": " + reason));
      int skips = skipped.values().stream().mapToInt(Integer::intValue).sum();
      System.out.println(passed + " passed, " + failed + " failed, " + skips + " skipped");
      return passed > 0 && failed == 0;
    }
  }

  /** Runs the classes of these names. */
  public static void main(String[] classes) {
    Counts counts = new Counts();
    LauncherFactory.create()
        .execute(
            LauncherDiscoveryRequestBuilder.request()
                .selectors(Arrays.stream(classes).map(DiscoverySelectors::selectClass).toList())
                .build(),
            counts);
    System.exit(counts.report() ? 0 : 1);
  }
}
