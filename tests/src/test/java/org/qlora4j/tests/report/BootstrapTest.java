// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.report;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Random;
import org.junit.jupiter.api.Test;
import org.qlora4j.study.Bootstrap;

/** Bootstrap intervals against what theory says of a mean. */
class BootstrapTest {
  @Test
  void intervalOfAMeanIsAboutTwoStandardErrorsEachWay() {
    Random random = new Random(11);
    double[] values = new double[400];
    double sum = 0;
    double squares = 0;
    for (int i = 0; i < values.length; i++) {
      values[i] = 3 + 2 * random.nextGaussian();
      sum += values[i];
      squares += values[i] * values[i];
    }
    double mean = sum / values.length;
    double error = Math.sqrt((squares / values.length - mean * mean) / values.length);
    Bootstrap.Interval interval = Bootstrap.mean(values, 10_000, 0.95, 5);
    assertEquals(mean, interval.estimate(), 1e-12);
    // 1.96 standard errors; the 2.5 % quantile of 10,000 draws is known to about 3 % of that.
    assertEquals(mean - 1.96 * error, interval.low(), 0.15 * error);
    assertEquals(mean + 1.96 * error, interval.high(), 0.15 * error);
    assertEquals(interval, Bootstrap.mean(values, 10_000, 0.95, 5), "a seed decides");
  }

  @Test
  void pairsAreDrawnTogether() {
    double[] before = {10, 200, 3000, 40_000};
    double[] after = {11, 201, 3001, 40_001};
    Bootstrap.Interval interval = Bootstrap.pairedMeanDifference(before, after, 1000, 0.9, 1);
    assertEquals(new Bootstrap.Interval(1, 1, 1), interval, "every pair differs by one");
    assertTrue(Bootstrap.mean(before, 1000, 0.9, 1).high() > 10_000);
  }

  @Test
  void whatCannotBeIsRefused() {
    assertThrows(
        IllegalArgumentException.class,
        () -> Bootstrap.pairedMeanDifference(new double[1], new double[2], 10, 0.9, 1));
    assertThrows(IllegalArgumentException.class, () -> Bootstrap.mean(new double[0], 10, 0.9, 1));
    assertThrows(IllegalArgumentException.class, () -> Bootstrap.mean(new double[1], 10, 1.0, 1));
  }
}
