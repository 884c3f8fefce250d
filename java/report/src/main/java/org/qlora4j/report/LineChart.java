// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.List;

/**
 * Lines over a common axis.
 *
 * @param title what it shows
 * @param x horizontal axis
 * @param y vertical axis
 * @param series the lines
 */
public record LineChart(String title, Axis x, Axis y, List<Series> series) implements Chart {
  /** Keeps a copy of the list. */
  public LineChart {
    series = List.copyOf(series);
  }
}
