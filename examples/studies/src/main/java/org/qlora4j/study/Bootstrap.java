// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.function.ToDoubleFunction;

/**
 * Percentile bootstrap intervals (Efron 1979): the same statistic of samples drawn again, with
 * replacement, from the sample at hand.
 */
public final class Bootstrap {
  private Bootstrap() {}

  /**
   * An estimate and the bounds that hold the middle share of its resamples.
   *
   * @param estimate of the sample itself
   * @param low lower bound
   * @param high upper bound
   */
  public record Interval(double estimate, double low, double high) {}

  /**
   * Mean of {@code after - before} over pairs; pairs are drawn, so that what differs between
   * subjects does not count.
   *
   * @param before one value a subject
   * @param after the same subjects' values afterwards
   * @param resamples how many samples are drawn; 10,000 is usual
   * @param level share of the resamples between the bounds, such as 0.95
   */
  public static Interval pairedMeanDifference(
      double[] before, double[] after, int resamples, double level, long seed) {
    check(before, after);
    double[] differences = new double[before.length];
    for (int i = 0; i < differences.length; i++) {
      differences[i] = after[i] - before[i];
    }
    return mean(differences, resamples, level, seed);
  }

  /** Mean of {@code after} over mean of {@code before}; pairs are drawn. NaN where before is 0. */
  public static Interval pairedRatio(
      double[] before, double[] after, int resamples, double level, long seed) {
    check(before, after);
    return interval(
        before.length,
        subjects -> {
          double sum = sum(before, subjects);
          return sum == 0 ? Double.NaN : sum(after, subjects) / sum;
        },
        resamples,
        level,
        seed);
  }

  /** Mean of the values. */
  public static Interval mean(double[] values, int resamples, double level, long seed) {
    return interval(
        values.length, subjects -> sum(values, subjects) / values.length, resamples, level, seed);
  }

  private static void check(double[] before, double[] after) {
    if (before.length != after.length) {
      throw new IllegalArgumentException(
          "expected pairs, found " + before.length + " and " + after.length + " values");
    }
  }

  private static double sum(double[] values, int[] subjects) {
    double sum = 0;
    for (int subject : subjects) {
      sum += values[subject];
    }
    return sum;
  }

  /** The statistic of all subjects, and of as many that are drawn from them again and again. */
  private static Interval interval(
      int subjects, ToDoubleFunction<int[]> statistic, int resamples, double level, long seed) {
    if (subjects == 0 || resamples < 1 || !(level > 0 && level < 1)) {
      throw new IllegalArgumentException(
          String.format(
              "expected values, resamples and a level between 0 and 1, found %d, %d, %s",
              subjects, resamples, level));
    }
    SplittableRandom random = new SplittableRandom(seed);
    double[] statistics = new double[resamples];
    int[] drawn = new int[subjects];
    for (int r = 0; r < resamples; r++) {
      for (int i = 0; i < subjects; i++) {
        drawn[i] = random.nextInt(subjects);
      }
      statistics[r] = statistic.applyAsDouble(drawn);
    }
    Arrays.sort(statistics);
    double tail = (1 - level) / 2;
    Arrays.setAll(drawn, i -> i);
    return new Interval(
        statistic.applyAsDouble(drawn), quantile(statistics, tail), quantile(statistics, 1 - tail));
  }

  /** Between the two nearest of sorted values. */
  private static double quantile(double[] sorted, double share) {
    double place = share * (sorted.length - 1);
    int below = (int) Math.floor(place);
    int above = Math.min(sorted.length - 1, below + 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  }
}
