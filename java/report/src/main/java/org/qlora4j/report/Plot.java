// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/** The area of a chart with two axes: marks, grid lines, titles, and where values lie. */
final class Plot {
  static final double WIDTH = 1000;
  static final double HEIGHT = 420;
  private static final double TOP = 14;
  private static final double RIGHT = 24;
  private static final double BELOW = 52;
  private static final double LINE = 18;

  final Svg svg;
  final Ticks x;
  final Ticks y;
  final double left;
  final double right = WIDTH - RIGHT;
  final double top = TOP;
  final double bottom = HEIGHT - BELOW;

  Plot(String title, Axis xAxis, double xLow, double xHigh, Axis yAxis, double yLow, double yHigh) {
    svg = new Svg(WIDTH, HEIGHT, title);
    y = Ticks.of(yAxis, yLow, yHigh, 6);
    double widest = y.values().stream().mapToDouble(v -> Svg.width(y.label(v))).max().orElse(0);
    left = LINE + 14 + widest;
    x = fitting(xAxis, xLow, xHigh, right - left);
    for (double value : y.values()) {
      svg.line("grid", left, y(value), right, y(value));
      svg.text("tick y", left - 6, y(value) + 4.5, Svg.Anchor.END, y.label(value));
    }
    for (double value : x.values()) {
      svg.line("grid", x(value), top, x(value), bottom);
      svg.text("tick x", x(value), bottom + LINE, Svg.Anchor.MIDDLE, x.label(value));
    }
    svg.line("axis", left, bottom, right, bottom);
    svg.line("axis", left, top, left, bottom);
    svg.text("name x", (left + right) / 2, HEIGHT - 8, Svg.Anchor.MIDDLE, xAxis.title());
    svg.textUpwards("name y", LINE - 4, (top + bottom) / 2, yAxis.title());
  }

  /** The most marks whose texts leave room between each other. */
  static Ticks fitting(Axis axis, double low, double high, double width) {
    for (int count = 10; ; count--) {
      Ticks ticks = Ticks.of(axis, low, high, count);
      double needed = 0;
      double nearest = width;
      for (int i = 0; i < ticks.values().size(); i++) {
        needed = Math.max(needed, Svg.width(ticks.label(ticks.values().get(i))) + 14);
        if (i > 0) {
          nearest =
              Math.min(
                  nearest,
                  width
                      * (ticks.position(ticks.values().get(i))
                          - ticks.position(ticks.values().get(i - 1))));
        }
      }
      if (needed <= nearest || count == 1) {
        return ticks;
      }
    }
  }

  double x(double value) {
    return left + x.position(value) * (right - left);
  }

  double y(double value) {
    return bottom - y.position(value) * (bottom - top);
  }
}
