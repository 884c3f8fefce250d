// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.List;

/** Draws charts. */
final class ChartSvg {
  private static final double BAR_LINE = 18;
  private static final double LONGEST_NAME = 330;

  private ChartSvg() {}

  static String draw(Chart chart) {
    if (chart instanceof LineChart line) {
      return draw(line);
    }
    if (chart instanceof BarChart bar) {
      return draw(bar);
    }
    if (chart instanceof ScatterChart scatter) {
      return ScatterSvg.draw(scatter);
    }
    return draw((Histogram) chart);
  }

  private static String draw(LineChart chart) {
    Range xs = new Range(chart.x());
    Range ys = new Range(chart.y());
    for (Series series : chart.series()) {
      for (int i = 0; i < series.size(); i++) {
        if (chart.x().shows(series.x(i)) && chart.y().shows(series.y(i))) {
          xs.add(series.x(i));
          ys.add(series.y(i));
        }
      }
    }
    Plot plot = new Plot(chart.title(), chart.x(), xs.low, xs.high, chart.y(), ys.low, ys.high);
    for (int s = 0; s < chart.series().size(); s++) {
      Series series = chart.series().get(s);
      StringBuilder points = new StringBuilder();
      StringBuilder hint = new StringBuilder();
      int shown = 0;
      for (int i = 0; i < series.size(); i++) {
        if (chart.x().shows(series.x(i)) && chart.y().shows(series.y(i))) {
          points.append(shown++ == 0 ? "" : " ");
          points.append(Svg.n(plot.x(series.x(i)))).append(',').append(Svg.n(plot.y(series.y(i))));
        }
      }
      plot.svg.polyline("line " + Svg.series(s), points.toString());
      if (shown > 60) {
        continue; // dots would hide the line
      }
      for (int i = 0; i < series.size(); i++) {
        if (chart.x().shows(series.x(i)) && chart.y().shows(series.y(i))) {
          hint.setLength(0);
          hint.append(series.name()).append(": ");
          hint.append(Numbers.significant(series.x(i))).append(", ");
          hint.append(Numbers.significant(series.y(i)));
          plot.svg.circle(
              "dot " + Svg.series(s),
              plot.x(series.x(i)),
              plot.y(series.y(i)),
              2.5,
              hint.toString());
        }
      }
    }
    return plot.svg.end();
  }

  private static String draw(BarChart chart) {
    int bars = chart.isStacked() ? 1 : chart.parts().size();
    double rowHeight = bars * BAR_LINE + 8;
    double top = 8;
    double bottom = top + rowHeight * chart.categories().size();
    double widest = chart.categories().stream().mapToDouble(Svg::width).max().orElse(0);
    double left = 16 + Math.min(LONGEST_NAME, widest);
    double right = Plot.WIDTH - 90; // a value stands right of the longest bar
    Range range = new Range(chart.value());
    range.add(0);
    for (int c = 0; c < chart.categories().size(); c++) {
      double sum = 0;
      for (BarChart.Part part : chart.parts()) {
        double v = zeroForNone(part.values().get(c));
        range.add(v);
        sum += v;
      }
      if (chart.isStacked()) {
        range.add(sum);
      }
    }
    Axis axis = Axis.fromZero(chart.value().label(), chart.value().unit());
    Ticks ticks = Plot.fitting(axis, range.low, range.high, right - left);
    double scale = right - left;
    Svg svg = new Svg(Plot.WIDTH, bottom + 52, chart.title());
    for (double value : ticks.values()) {
      double x = left + ticks.position(value) * scale;
      svg.line("grid", x, top, x, bottom);
      svg.text("tick x", x, bottom + 18, Svg.Anchor.MIDDLE, ticks.label(value));
    }
    svg.text("name x", (left + right) / 2, bottom + 42, Svg.Anchor.MIDDLE, axis.title());
    for (int c = 0; c < chart.categories().size(); c++) {
      String category = chart.categories().get(c);
      double y = top + c * rowHeight + 4;
      svg.text(
          "tick y",
          left - 8,
          y + bars * BAR_LINE / 2 + 4.5,
          Svg.Anchor.END,
          shortened(category, LONGEST_NAME));
      double from = left;
      double sum = 0;
      for (int p = 0; p < chart.parts().size(); p++) {
        BarChart.Part part = chart.parts().get(p);
        double value = part.values().get(c);
        double length = ticks.position(zeroForNone(value)) * scale;
        String hint = category + ", " + part.name() + ": " + Numbers.significant(value);
        svg.bar("bar " + Svg.series(p), from, y + 1, length, BAR_LINE - 2, hint);
        sum += zeroForNone(value);
        if (chart.isStacked()) {
          from += length;
        } else {
          svg.text(
              "value",
              left + length + 6,
              y + BAR_LINE / 2 + 4.5,
              Svg.Anchor.START,
              valueLabel(value));
          y += BAR_LINE;
        }
      }
      if (chart.isStacked()) {
        svg.text("value", from + 6, y + BAR_LINE / 2 + 4.5, Svg.Anchor.START, valueLabel(sum));
      }
    }
    svg.line("axis", left, top, left, bottom);
    return svg.end();
  }

  private static String draw(Histogram chart) {
    Range range = new Range(chart.x());
    Range percents = new Range(Axis.of("", ""));
    for (int b = 0; b <= chart.bins(); b++) {
      range.add(chart.edge(b));
    }
    percents.add(0);
    for (int s = 0; s < chart.samples().size(); s++) {
      for (int b = 0; b < chart.bins(); b++) {
        percents.add(chart.percent(s, b));
      }
    }
    Axis x = Axis.of(chart.x().label(), chart.x().unit());
    Plot plot =
        new Plot(
            chart.title(),
            x,
            range.low,
            range.high,
            Axis.fromZero("share of the sample", "%"),
            percents.low,
            percents.high);
    int samples = chart.samples().size();
    for (int b = 0; b < chart.bins(); b++) {
      double from = plot.x(chart.edge(b));
      double width = plot.x(chart.edge(b + 1)) - from - 2;
      for (int s = 0; s < samples; s++) {
        double height = plot.bottom - plot.y(chart.percent(s, b));
        String hint =
            String.format(
                "%s, %s to %s: %d",
                chart.samples().get(s).name(),
                Numbers.significant(chart.edge(b)),
                Numbers.significant(chart.edge(b + 1)),
                chart.count(s, b));
        plot.svg.bar(
            "bar " + Svg.series(s),
            from + 1 + s * width / samples,
            plot.bottom - height,
            width / samples,
            height,
            hint);
      }
    }
    return plot.svg.end();
  }

  private static double zeroForNone(double value) {
    return Double.isNaN(value) ? 0 : value;
  }

  private static String valueLabel(double value) {
    if (value == 0 || Double.isNaN(value) || value >= 1e7 || value < 1e-3) {
      return Numbers.significant(value);
    }
    return Numbers.fixed(value, value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 4);
  }

  /** At most `width` wide. */
  static String shortened(String text, double width) {
    if (Svg.width(text) <= width) {
      return text;
    }
    int end = text.length();
    while (end > 1 && Svg.width(text.substring(0, end) + "…") > width) {
      end = text.offsetByCodePoints(end, -1);
    }
    return text.substring(0, end) + "…";
  }

  /** Names of the colours, in their order; none where there is only one. */
  static List<String> legend(Chart chart) {
    List<String> names = List.of();
    if (chart instanceof LineChart line) {
      names = line.series().stream().map(Series::name).toList();
    } else if (chart instanceof BarChart bar) {
      names = bar.parts().stream().map(BarChart.Part::name).toList();
    } else if (chart instanceof Histogram histogram) {
      names = histogram.samples().stream().map(Histogram.Sample::name).toList();
    }
    return names.size() < 2 ? List.of() : names;
  }
}
