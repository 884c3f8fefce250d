// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import java.util.stream.Collectors;

/** A report as text. A chart is a table of its numbers, a long line is thinned out. */
final class MarkdownWriter {
  /** The most rows of a line chart's table. */
  private static final int MOST_POINTS = 24;

  private final StringBuilder out = new StringBuilder();

  private MarkdownWriter() {}

  static String write(Report report) {
    MarkdownWriter writer = new MarkdownWriter();
    writer.out.append("# ").append(Escape.markdown(report.title())).append("\n\n");
    for (Block block : report.blocks()) {
      writer.block(block);
    }
    return writer.out.toString().stripTrailing() + "\n";
  }

  private void block(Block block) {
    if (block instanceof Heading heading) {
      out.append("#".repeat(heading.level())).append(' ');
      out.append(Escape.markdown(heading.text())).append("\n\n");
    } else if (block instanceof Paragraph paragraph) {
      out.append(Escape.markdown(paragraph.text())).append("\n\n");
    } else if (block instanceof Table table) {
      title(table.title());
      table(table);
    } else if (block instanceof SampleTexts samples) {
      title(samples.title());
      samples(samples);
    } else if (block instanceof LineChart chart) {
      title(chart.title());
      table(numbers(chart));
    } else if (block instanceof BarChart chart) {
      title(chart.title());
      table(numbers(chart));
    } else if (block instanceof ScatterChart chart) {
      title(chart.title());
      table(numbers(chart));
    } else if (block instanceof Histogram chart) {
      title(chart.title());
      table(numbers(chart));
    }
  }

  private void title(String title) {
    out.append("**").append(Escape.markdown(title)).append("**\n\n");
  }

  private void table(Table table) {
    List<Column> columns = table.columns();
    row(columns.stream().map(c -> Escape.markdown(c.title())).toList());
    out.append('|');
    columns.forEach(c -> out.append(c.isNumber() ? "---:|" : "---|"));
    out.append('\n');
    for (List<Object> row : table.rows()) {
      List<String> cells = new ArrayList<>();
      for (int i = 0; i < row.size(); i++) {
        cells.add(
            row.get(i) instanceof Double number
                ? Numbers.fixed(number, columns.get(i).digits())
                : Escape.markdown(row.get(i).toString()));
      }
      row(cells);
    }
    out.append('\n');
  }

  private void samples(SampleTexts samples) {
    List<String> head = new ArrayList<>(List.of("prompt"));
    samples.sources().forEach(s -> head.add(Escape.markdown(s)));
    row(head);
    out.append("|---".repeat(head.size())).append("|\n");
    for (SampleTexts.Row row : samples.rows()) {
      List<String> cells = new ArrayList<>(List.of(Escape.markdown(row.prompt())));
      row.texts().forEach(t -> cells.add(Escape.markdown(t)));
      row(cells);
    }
    out.append('\n');
  }

  private void row(List<String> cells) {
    out.append(cells.stream().collect(Collectors.joining(" | ", "| ", " |\n")));
  }

  /** One row a place where the lines share their places, else one row a point. */
  private static Table numbers(LineChart chart) {
    if (!chart.series().stream().allMatch(s -> samePlaces(s, chart.series().get(0)))) {
      return points(chart);
    }
    TreeSet<Double> places = new TreeSet<>();
    for (Series series : chart.series()) {
      for (int i = 0; i < series.size(); i++) {
        places.add(series.x(i));
      }
    }
    List<Double> all = List.copyOf(places);
    int step = Math.max(1, (all.size() + MOST_POINTS - 1) / MOST_POINTS);
    List<Column> columns = new ArrayList<>(List.of(Column.text(chart.x().title())));
    chart.series().forEach(s -> columns.add(Column.text(s.name())));
    List<List<Object>> rows = new ArrayList<>();
    for (int i = 0; i < all.size(); i++) {
      if (i % step != 0 && i != all.size() - 1) {
        continue;
      }
      List<Object> row = new ArrayList<>(List.of(Numbers.significant(all.get(i))));
      for (Series series : chart.series()) {
        row.add(at(series, all.get(i)));
      }
      rows.add(row);
    }
    return new Table(chart.title(), columns, rows);
  }

  private static boolean samePlaces(Series one, Series other) {
    for (int i = 0; i < one.size(); i++) {
      if (i >= other.size() || one.x(i) != other.x(i)) {
        return false;
      }
    }
    return one.size() == other.size();
  }

  private static Table points(LineChart chart) {
    List<List<Object>> rows = new ArrayList<>();
    for (Series series : chart.series()) {
      int step = Math.max(1, (series.size() + MOST_POINTS - 1) / MOST_POINTS);
      for (int i = 0; i < series.size(); i++) {
        if (i % step == 0 || i == series.size() - 1) {
          rows.add(
              List.of(
                  series.name(),
                  Numbers.significant(series.x(i)),
                  Numbers.significant(series.y(i))));
        }
      }
    }
    return new Table(
        chart.title(),
        List.of(Column.text(""), Column.text(chart.x().title()), Column.text(chart.y().title())),
        rows);
  }

  private static String at(Series series, double x) {
    for (int i = series.size() - 1; i >= 0; i--) {
      if (Double.compare(series.x(i), x) == 0) {
        return Numbers.significant(series.y(i));
      }
    }
    return Numbers.NONE;
  }

  private static Table numbers(BarChart chart) {
    List<Column> columns = new ArrayList<>(List.of(Column.text("")));
    for (BarChart.Part part : chart.parts()) {
      String unit = chart.value().unit();
      columns.add(Column.text(part.name() + (unit.isEmpty() ? "" : " (" + unit + ")")));
    }
    List<List<Object>> rows = new ArrayList<>();
    for (int c = 0; c < chart.categories().size(); c++) {
      List<Object> row = new ArrayList<>(List.of(chart.categories().get(c)));
      for (BarChart.Part part : chart.parts()) {
        row.add(Numbers.significant(part.values().get(c)));
      }
      rows.add(row);
    }
    return new Table(chart.title(), columns, rows);
  }

  private static Table numbers(ScatterChart chart) {
    List<List<Object>> rows = new ArrayList<>();
    for (ScatterChart.Point point : chart.points()) {
      rows.add(
          List.of(point.name(), Numbers.significant(point.x()), Numbers.significant(point.y())));
    }
    List<Column> columns =
        List.of(Column.text(""), Column.text(chart.x().title()), Column.text(chart.y().title()));
    return new Table(chart.title(), columns, rows);
  }

  private static Table numbers(Histogram chart) {
    List<Column> columns = new ArrayList<>(List.of(Column.text(chart.x().title() + " from")));
    chart.samples().forEach(s -> columns.add(Column.number(s.name(), "%", 1)));
    List<List<Object>> rows = new ArrayList<>();
    for (int b = 0; b < chart.bins(); b++) {
      List<Object> row = new ArrayList<>(List.of(Numbers.significant(chart.edge(b))));
      for (int s = 0; s < chart.samples().size(); s++) {
        row.add(chart.percent(s, b));
      }
      rows.add(row);
    }
    return new Table(chart.title(), columns, rows);
  }
}
