// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.Arrays;

/** Points with a name, in the order of their line. Points that are not finite are left out. */
public final class Series {
  private final String name;
  private final double[] x;
  private final double[] y;

  /** Points; x and y have the same length. */
  public Series(String name, double[] x, double[] y) {
    if (x.length != y.length) {
      throw new IllegalArgumentException(
          "series " + name + ": expected as many x as y, found " + x.length + " and " + y.length);
    }
    this.name = name;
    this.x = x.clone();
    this.y = y.clone();
  }

  /** Its name in the legend. */
  public String name() {
    return name;
  }

  /** Number of points. */
  public int size() {
    return x.length;
  }

  /** The point's place along the horizontal axis. */
  public double x(int point) {
    return x[point];
  }

  /** The point's place along the vertical axis. */
  public double y(int point) {
    return y[point];
  }

  @Override
  public String toString() {
    return name + " " + Arrays.toString(x) + " " + Arrays.toString(y);
  }
}
