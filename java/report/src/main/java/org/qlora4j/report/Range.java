// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/** The smallest and the largest of the values that an axis shows. */
final class Range {
  private final Axis axis;
  double low = Double.POSITIVE_INFINITY;
  double high = Double.NEGATIVE_INFINITY;

  Range(Axis axis) {
    this.axis = axis;
  }

  void add(double value) {
    if (axis.shows(value)) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
}
