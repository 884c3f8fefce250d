// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.util.Locale;

/**
 * Compares two tensors element by element and remembers the worst one.
 *
 * @param name of the tensor
 * @param elements how many were compared
 * @param worst index of the element that used the largest share of its tolerance, -1 for none
 * @param share of the tolerance that element used; above 1 is a failure; infinite where NaN,
 *     infinities or exact values differ
 * @param expected value there
 * @param actual value there
 * @param failures how many elements exceeded their tolerance
 * @param tolerance used
 * @param cols length of a row, for naming the coordinate
 */
public record Comparison(
    String name,
    int elements,
    int worst,
    double share,
    double expected,
    double actual,
    int failures,
    Tolerance tolerance,
    long cols) {

  /** Compares {@code actual} with {@code expected}. */
  public static Comparison of(
      String name, float[] expected, float[] actual, Tolerance tolerance, long cols) {
    if (expected.length != actual.length) {
      throw new AssertionError(
          name + ": expected " + expected.length + " elements, found " + actual.length);
    }
    double largest = 0;
    for (float value : expected) {
      if (Float.isFinite(value)) {
        largest = Math.max(largest, Math.abs(value));
      }
    }
    int worst = -1;
    int failures = 0;
    double worstShare = 0;
    for (int i = 0; i < expected.length; i++) {
      double share = share(expected[i], actual[i], tolerance, largest);
      if (share > 1) {
        failures++;
      }
      if (share > worstShare || worst < 0) {
        worst = i;
        worstShare = share;
      }
    }
    double e = worst < 0 ? 0 : expected[worst];
    double a = worst < 0 ? 0 : actual[worst];
    return new Comparison(
        name, expected.length, worst, worstShare, e, a, failures, tolerance, Math.max(1, cols));
  }

  private static double share(float expected, float actual, Tolerance tolerance, double largest) {
    if (Float.isNaN(expected) || Float.isNaN(actual)) {
      return Float.isNaN(expected) && Float.isNaN(actual) ? 0 : Double.POSITIVE_INFINITY;
    }
    if (expected == actual) {
      return 0;
    }
    double allowed = tolerance.allowed(expected, largest);
    double difference = Math.abs((double) actual - (double) expected);
    // Covers a difference of infinities and an allowance of zero.
    return allowed > 0 && difference < Double.POSITIVE_INFINITY
        ? difference / allowed
        : Double.POSITIVE_INFINITY;
  }

  /** Whether every element is within its tolerance. */
  public boolean passes() {
    return failures == 0;
  }

  /**
   * Throws when an element exceeded its tolerance.
   *
   * @param context said first in the message
   */
  public void orFail(String context) {
    if (!passes()) {
      throw new AssertionError(context + ": " + this);
    }
  }

  @Override
  public String toString() {
    if (worst < 0) {
      return name + ": empty";
    }
    return String.format(
        Locale.ROOT,
        "%s: worst at [%d, %d] expected %.9g found %.9g, %.1f%% of the tolerance (%s), %d of %d"
            + " elements exceed it",
        name,
        worst / cols,
        worst % cols,
        expected,
        actual,
        100 * share,
        tolerance.reason(),
        failures,
        elements);
  }
}
