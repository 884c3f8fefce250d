// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.Locale;

/** How numbers are written. */
final class Numbers {
  /** What stands where there is no number. */
  static final String NONE = "\u2013";

  private Numbers() {}

  /**
   * With a number of digits after the point, and a thin space between groups of three before it.
   */
  static String fixed(double value, int digits) {
    if (Double.isNaN(value)) {
      return NONE;
    }
    if (Double.isInfinite(value)) {
      return value > 0 ? "\u221e" : "-\u221e";
    }
    String text = String.format(Locale.ROOT, "%,." + digits + "f", value).replace(",", "\u2009");
    return text.matches("-0(\\.0*)?") ? text.substring(1) : text;
  }

  /** Six significant digits without zeros at the end: for data whose precision nobody said. */
  static String significant(double value) {
    if (!Double.isFinite(value)) {
      return fixed(value, 0);
    }
    if (value == Math.rint(value) && Math.abs(value) < 1e9) {
      return String.format(Locale.ROOT, "%.0f", value);
    }
    String text = String.format(Locale.ROOT, "%.6g", value);
    if (text.contains("e")) {
      return text;
    }
    return text.contains(".") ? text.replaceAll("\\.?0+$", "") : text;
  }
}
