// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * The round values along an axis, and where values lie on it.
 *
 * @param axis what it measures
 * @param low its first value
 * @param high its last value
 * @param values where it is marked
 */
record Ticks(Axis axis, double low, double high, List<Double> values) {

  /** Around values from `low` to `high`, with about `count` marks. */
  static Ticks of(Axis axis, double low, double high, int count) {
    if (!(low <= high)) { // no value at all
      low = axis.scale() == Axis.Scale.LOGARITHMIC ? 1 : 0;
      high = 1;
    }
    return axis.scale() == Axis.Scale.LOGARITHMIC
        ? logarithmic(axis, low, high, count)
        : linear(axis, low, high, count);
  }

  private static Ticks linear(Axis axis, double low, double high, int count) {
    if (axis.fromZero()) {
      low = Math.min(low, 0);
      high = Math.max(high, 0);
    }
    if (high - low < 1e-12 * Math.max(1, Math.abs(high))) {
      double room = high == 0 ? 1 : Math.abs(high) / 2;
      high += room;
      low -= axis.fromZero() ? 0 : room;
    }
    double step = roundStep((high - low) / count);
    long first = (long) Math.floor(low / step + 1e-9);
    long last = (long) Math.ceil(high / step - 1e-9);
    List<Double> values = new ArrayList<>();
    for (long i = first; i <= last; i++) {
      values.add(i * step);
    }
    return new Ticks(axis, first * step, last * step, values);
  }

  private static Ticks logarithmic(Axis axis, double low, double high, int count) {
    double decades = Math.log10(high / low);
    double[] factors = decades * 3 <= count * 1.5 ? new double[] {1, 2, 5} : new double[] {1};
    List<Double> all = new ArrayList<>();
    for (int e = (int) Math.floor(Math.log10(low)) - 1; e <= Math.log10(high) + 1; e++) {
      for (double factor : factors) {
        all.add(factor * Math.pow(10, e));
      }
    }
    double first = all.get(0);
    double last = all.get(all.size() - 1);
    for (double value : all) {
      first = value <= low * (1 + 1e-9) ? value : first;
      if (value >= high * (1 - 1e-9)) {
        last = value;
        break;
      }
    }
    if (first == last) {
      first /= 2;
      last *= 2;
    }
    double from = first;
    double to = last;
    List<Double> values =
        all.stream().filter(v -> v >= from * (1 - 1e-9) && v <= to * (1 + 1e-9)).toList();
    return new Ticks(axis, from, to, values);
  }

  /** The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `step`. */
  static double roundStep(double step) {
    double power = Math.pow(10, Math.floor(Math.log10(step)));
    for (double factor : new double[] {1, 2, 2.5, 5}) {
      if (factor * power >= step * (1 - 1e-9)) {
        return factor * power;
      }
    }
    return 10 * power;
  }

  /** Where a value lies: 0 at the axis's first value, 1 at its last. */
  double position(double value) {
    return axis.scale() == Axis.Scale.LOGARITHMIC
        ? Math.log(value / low) / Math.log(high / low)
        : (value - low) / (high - low);
  }

  /** The text at a mark: as many digits as tell it from its neighbours. */
  String label(double value) {
    double step =
        axis.scale() == Axis.Scale.LOGARITHMIC || values.size() < 2
            ? Math.abs(value)
            : values.get(1) - values.get(0);
    double largest = Math.max(Math.abs(low), Math.abs(high));
    if (largest >= 1e7 || (largest < 1e-3 && largest > 0)) {
      return String.format(Locale.ROOT, "%.3g", value).replaceAll("\\.?0+(e|$)", "$1");
    }
    int digits = 0;
    while (digits < 8 && step > 0 && !isWhole(step * Math.pow(10, digits))) {
      digits++;
    }
    return Numbers.fixed(value, digits);
  }

  private static boolean isWhole(double value) {
    return Math.rint(value) >= 1 && Math.abs(value - Math.rint(value)) < 1e-6 * value;
  }
}
