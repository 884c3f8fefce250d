// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.lang.management.CompilationMXBean;
import java.lang.management.ManagementFactory;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Times several ways to do the same thing in turn, so that what else the machine does at a time
 * meets all of them alike. Every timed run is long enough for a clock: a short call is repeated.
 * Before, all are run until the virtual machine has finished no compilation for 0.2 s, or for 3 s:
 * its compiler takes a core from them. With one or two repetitions, which are a try, they run once.
 */
final class PairedTimer {
  private static final double RUN_SECONDS = 4e-3;
  private static final int MAXIMUM_CALLS = 10000;
  private static final int LEAST_REPETITIONS = 3;
  private static final double QUIET_SECONDS = 0.2;
  private static final double WARM_UP_SECONDS = 3;

  /**
   * After a run, the threads of libtorch spin for a while; the next run must not share its cores.
   */
  private static final long PAUSE_MILLIS = 2;

  private PairedTimer() {}

  /** One call; `index` counts up, for calls that take other operands each time. */
  @FunctionalInterface
  interface Call {
    /** Calls. */
    void run(int index);
  }

  /**
   * What was measured.
   *
   * @param seconds median time of each call
   * @param ratios median, over the repetitions, of each call's time by the first call's time in the
   *     same repetition
   */
  @SuppressWarnings("ArrayRecordComponent") // compared by nobody
  record Times(double[] seconds, double[] ratios) {}

  /**
   * Runs all calls in turn, {@code repetitions} times or until {@code budgetSeconds} are over, but
   * three times at least.
   */
  static Times measure(List<Call> calls, int repetitions, double budgetSeconds) {
    int count = calls.size();
    int[] repeats = new int[count];
    int[] next = new int[count];
    warmUp(calls, next, repetitions < LEAST_REPETITIONS ? 0 : QUIET_SECONDS);
    for (int i = 0; i < count; i++) {
      double once = time(calls.get(i), 1, next, i);
      repeats[i] = (int) Math.max(1, Math.min(MAXIMUM_CALLS, Math.ceil(RUN_SECONDS / once)));
    }
    double[][] seconds = new double[count][repetitions];
    long start = System.nanoTime();
    int done = 0;
    while (done < repetitions
        && (done < LEAST_REPETITIONS || (System.nanoTime() - start) / 1e9 < budgetSeconds)) {
      for (int j = 0; j < count; j++) {
        // Who is first changes, so that nobody always follows the same neighbour.
        int i = done % 2 == 0 ? j : count - 1 - j;
        pause();
        seconds[i][done] = time(calls.get(i), repeats[i], next, i);
      }
      done++;
    }
    double[] medians = new double[count];
    double[] ratios = new double[count];
    for (int i = 0; i < count; i++) {
      double[] times = Arrays.copyOf(seconds[i], done);
      double[] quotients = new double[done];
      for (int r = 0; r < done; r++) {
        quotients[r] = seconds[i][r] / seconds[0][r];
      }
      medians[i] = median(times);
      ratios[i] = median(quotients);
    }
    return new Times(medians, ratios);
  }

  /** Runs all calls once at least, and until no compilation has ended for `quietSeconds`. */
  private static void warmUp(List<Call> calls, int[] next, double quietSeconds) {
    long start = System.nanoTime();
    long quietSince = start;
    CompilationMXBean compiler = ManagementFactory.getCompilationMXBean();
    long compiled = millis(compiler);
    long now;
    do {
      for (int i = 0; i < calls.size(); i++) {
        calls.get(i).run(next[i]++);
      }
      now = System.nanoTime();
      long total = millis(compiler);
      if (total != compiled) {
        compiled = total;
        quietSince = now;
      }
    } while ((now - quietSince) / 1e9 < quietSeconds && (now - start) / 1e9 < WARM_UP_SECONDS);
  }

  private static long millis(@Nullable CompilationMXBean compiler) {
    return compiler != null && compiler.isCompilationTimeMonitoringSupported()
        ? compiler.getTotalCompilationTime()
        : 0;
  }

  private static double time(Call call, int repeats, int[] next, int i) {
    long start = System.nanoTime();
    for (int r = 0; r < repeats; r++) {
      call.run(next[i]++);
    }
    return Math.max(1, System.nanoTime() - start) / 1e9 / repeats;
  }

  private static void pause() {
    try {
      Thread.sleep(PAUSE_MILLIS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** Median; the mean of the two in the middle of an even number. */
  static double median(double[] values) {
    double[] sorted = values.clone();
    Arrays.sort(sorted);
    int middle = sorted.length / 2;
    return sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }
}
