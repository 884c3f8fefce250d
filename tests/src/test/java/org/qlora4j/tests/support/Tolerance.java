// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import org.qlora4j.kernels.DType;

/**
 * How far a result may be from the expected one, as an error model instead of a guess.
 *
 * <p>An element passes when {@code |actual - expected| <= relative * |expected| + share * largest},
 * where {@code largest} is the largest finite magnitude of the expected tensor, or {@code floor}
 * where that is larger. The first term covers roundings of the result itself, the second errors
 * that were made before cancellation. NaN must meet NaN and an infinity the same infinity.
 * Tolerances add up with {@link #plus}.
 *
 * @param relative share of the element
 * @param share share of the tensor's largest magnitude
 * @param floor size of the terms that were added, for results that cancel as a whole
 * @param reason where the numbers come from, printed with a failure
 */
public record Tolerance(double relative, double share, double floor, String reason) {

  /** Without a floor. */
  public Tolerance(double relative, double share, String reason) {
    this(relative, share, 0, reason);
  }

  /** Bit for bit, but that -0 equals +0. */
  public static final Tolerance EXACT = new Tolerance(0, 0, "exact");

  /** Unit roundoff: half the distance of 1 and the next larger value. */
  public static double roundoff(DType type) {
    return switch (type) {
      case F32 -> 0x1p-24;
      case BF16 -> 0x1p-8;
      case F16 -> 0x1p-11;
      default -> throw new IllegalArgumentException(type + " has no roundoff");
    };
  }

  /**
   * Two results of the same exact value, each rounded to {@code type} in {@code steps} places: they
   * may differ by two roundoffs per place, because a tiny difference before a rounding can become
   * one step of the type after it.
   */
  public static Tolerance rounded(DType type, int steps) {
    double relative = 2 * steps * roundoff(type);
    return new Tolerance(relative, 0, steps + " rounding(s) to " + type);
  }

  /**
   * A sum of {@code terms} products in f32, in any order, against the exact sum: the error grows
   * like the square root of the number of roundings (they are independent) and is relative to the
   * partial sums, for which the largest result stands in. The factor 8 covers the tail: the largest
   * of thousands of elements lies about four standard deviations out, and partial sums exceed
   * results by as much as two.
   */
  public static Tolerance sum(long terms) {
    double share = 8 * Math.sqrt((double) Math.max(terms, 1)) * roundoff(DType.F32);
    return new Tolerance(0, share, "f32 sum of " + terms + " terms");
  }

  /**
   * An intermediate of the sum was rounded to {@code type} on both sides and fell to different
   * neighbours in a few places: one such place changes a result by one step of the type, relative
   * to one term of the sum.
   */
  public static Tolerance intermediate(DType type) {
    return new Tolerance(0, 2 * roundoff(type), "an intermediate rounded to " + type);
  }

  /**
   * A function of the math library or an approximation of it, accurate to {@code steps} roundoffs
   * of f32.
   */
  public static Tolerance function(int steps) {
    return new Tolerance(
        steps * roundoff(DType.F32), 0, "function accurate to " + steps + " f32 roundoffs");
  }

  /** The number a fixture's documentation gives: a share of the largest magnitude. */
  public static Tolerance ofLargest(double share) {
    return new Tolerance(0, share, "fixture: " + share + " of the largest magnitude");
  }

  /** Sum of two independent errors. */
  public Tolerance plus(Tolerance other) {
    return new Tolerance(
        relative + other.relative,
        share + other.share,
        Math.max(floor, other.floor),
        reason + " + " + other.reason);
  }

  /** The same, where terms of size {@code terms} may cancel in all elements at once. */
  public Tolerance ofTerms(double terms) {
    return new Tolerance(relative, share, Math.max(floor, terms), reason);
  }

  /** What an element may deviate by. */
  double allowed(double expected, double largest) {
    return relative * Math.abs(expected) + share * Math.max(floor, largest);
  }
}
