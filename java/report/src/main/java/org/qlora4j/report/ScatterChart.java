// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.List;

/**
 * Points with their names beside them.
 *
 * @param title what it shows
 * @param x horizontal axis
 * @param y vertical axis
 * @param points the points
 */
public record ScatterChart(String title, Axis x, Axis y, List<Point> points) implements Chart {
  /** Keeps a copy of the list. */
  public ScatterChart {
    points = List.copyOf(points);
  }

  /**
   * One point.
   *
   * @param name what is written beside it
   * @param x along the horizontal axis
   * @param y along the vertical axis
   */
  public record Point(String name, double x, double y) {}
}
