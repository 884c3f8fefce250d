// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/** Draws points, and puts each name where it hides neither a point nor another name. */
final class ScatterSvg {
  private static final double HALF_LINE = 9;
  private static final double RADIUS = 5;

  private ScatterSvg() {}

  /** A rectangle on the page. */
  private record Box(double x1, double y1, double x2, double y2) {
    double overlap(Box other) {
      double w = Math.min(x2, other.x2) - Math.max(x1, other.x1);
      double h = Math.min(y2, other.y2) - Math.max(y1, other.y1);
      return w > 0 && h > 0 ? w * h : 0;
    }
  }

  static String draw(ScatterChart chart) {
    Range xs = new Range(chart.x());
    Range ys = new Range(chart.y());
    List<ScatterChart.Point> points = new ArrayList<>();
    for (ScatterChart.Point point : chart.points()) {
      if (chart.x().shows(point.x()) && chart.y().shows(point.y())) {
        points.add(point);
        xs.add(point.x());
        ys.add(point.y());
      }
    }
    Plot plot = new Plot(chart.title(), chart.x(), xs.low, xs.high, chart.y(), ys.low, ys.high);
    List<Box> taken = new ArrayList<>();
    for (ScatterChart.Point point : points) {
      double x = plot.x(point.x());
      double y = plot.y(point.y());
      taken.add(new Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS));
    }
    // From the left, so that the crowded places are filled in one direction.
    List<ScatterChart.Point> order = new ArrayList<>(points);
    order.sort(Comparator.comparingDouble(ScatterChart.Point::x));
    for (ScatterChart.Point point : order) {
      double x = plot.x(point.x());
      double y = plot.y(point.y());
      Box box = place(plot, x, y, Svg.width(point.name()), taken);
      taken.add(box);
      double nearX = Math.max(box.x1, Math.min(x, box.x2));
      double nearY = (box.y1 + box.y2) / 2;
      if (Math.hypot(nearX - x, nearY - y) > 24) {
        plot.svg.line("leader", x, y, nearX, nearY);
      }
      plot.svg.text("label", box.x1, box.y2 - 4.5, Svg.Anchor.START, point.name());
    }
    for (int i = 0; i < points.size(); i++) {
      ScatterChart.Point point = points.get(i);
      String hint =
          point.name()
              + ": "
              + Numbers.significant(point.x())
              + ", "
              + Numbers.significant(point.y());
      plot.svg.circle("point " + Svg.series(i), plot.x(point.x()), plot.y(point.y()), RADIUS, hint);
    }
    return plot.svg.end();
  }

  /** The nearest free place around a point; the least crowded one where none is free. */
  private static Box place(Plot plot, double x, double y, double width, List<Box> taken) {
    Box best = null;
    double least = Double.POSITIVE_INFINITY;
    for (double distance = 10; distance <= 300; distance += 8) {
      for (int direction = 0; direction < 16; direction++) {
        double angle = Math.PI * direction / 8;
        double cx = x + distance * Math.cos(angle);
        double cy = y + distance * Math.sin(angle);
        // The text lies on the far side of the point.
        double x1 = cx - width / 2 + Math.cos(angle) * width / 2;
        Box box = new Box(x1, cy - HALF_LINE, x1 + width, cy + HALF_LINE);
        if (box.x1 < plot.left + 2
            || box.x2 > plot.right + 20
            || box.y1 < plot.top - 12
            || box.y2 > plot.bottom - 2) {
          continue;
        }
        double overlap = taken.stream().mapToDouble(box::overlap).sum();
        if (overlap == 0) {
          return box;
        }
        if (overlap < least) {
          least = overlap;
          best = box;
        }
      }
    }
    return best == null
        ? new Box(plot.left, y - HALF_LINE, plot.left + width, y + HALF_LINE)
        : best;
  }
}
