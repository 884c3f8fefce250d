// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import java.util.Arrays;
import java.util.SplittableRandom;

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
    if (before.length != after.length) {
      throw new IllegalArgumentException(
          "expected pairs, found " + before.length + " and " + after.length + " values");
    }
    double[] differences = new double[before.length];
    for (int i = 0; i < differences.length; i++) {
      differences[i] = after[i] - before[i];
    }
    return mean(differences, resamples, level, seed);
  }

  /** Mean of {@code after} over mean of {@code before}; pairs are drawn. NaN where before is 0. */
  public static Interval pairedRatio(
      double[] before, double[] after, int resamples, double level, long seed) {
    if (before.length != after.length || before.length == 0) {
      throw new IllegalArgumentException(
          "expected pairs, found " + before.length + " and " + after.length + " values");
    }
    SplittableRandom random = new SplittableRandom(seed);
    double[] ratios = new double[resamples];
    for (int r = 0; r < resamples; r++) {
      double sumBefore = 0;
      double sumAfter = 0;
      for (int i = 0; i < before.length; i++) {
        int drawn = random.nextInt(before.length);
        sumBefore += before[drawn];
        sumAfter += after[drawn];
      }
      ratios[r] = sumBefore == 0 ? Double.NaN : sumAfter / sumBefore;
    }
    Arrays.sort(ratios);
    double tail = (1 - level) / 2;
    double mean = Arrays.stream(before).sum();
    return new Interval(
        mean == 0 ? Double.NaN : Arrays.stream(after).sum() / mean,
        quantile(ratios, tail),
        quantile(ratios, 1 - tail));
  }

  /** Mean of the values. */
  public static Interval mean(double[] values, int resamples, double level, long seed) {
    if (values.length == 0 || resamples < 1 || !(level > 0 && level < 1)) {
      throw new IllegalArgumentException(
          String.format(
              "expected values, resamples and a level between 0 and 1, found %d, %d, %s",
              values.length, resamples, level));
    }
    SplittableRandom random = new SplittableRandom(seed);
    double[] means = new double[resamples];
    for (int r = 0; r < resamples; r++) {
      double sum = 0;
      for (int i = 0; i < values.length; i++) {
        sum += values[random.nextInt(values.length)];
      }
      means[r] = sum / values.length;
    }
    Arrays.sort(means);
    double tail = (1 - level) / 2;
    return new Interval(
        Arrays.stream(values).average().orElseThrow(),
        quantile(means, tail),
        quantile(means, 1 - tail));
  }

  /** Between the two nearest of sorted values. */
  private static double quantile(double[] sorted, double share) {
    double place = share * (sorted.length - 1);
    int below = (int) Math.floor(place);
    int above = Math.min(sorted.length - 1, below + 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  }
}
