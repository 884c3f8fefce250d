// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.List;

/** A report's numbers. What is not finite is null. */
final class JsonWriter {
  private static final ObjectMapper MAPPER = new ObjectMapper();

  private JsonWriter() {}

  static String write(Report report) {
    ObjectNode root = MAPPER.createObjectNode();
    root.put("title", report.title()).put("language", report.language());
    ArrayNode blocks = root.putArray("blocks");
    for (Block block : report.blocks()) {
      ObjectNode node = blocks.addObject();
      if (block instanceof Heading heading) {
        node.put("type", "heading").put("level", heading.level()).put("text", heading.text());
      } else if (block instanceof Paragraph paragraph) {
        node.put("type", "paragraph").put("text", paragraph.text());
      } else if (block instanceof Table table) {
        table(node, table);
      } else if (block instanceof SampleTexts samples) {
        samples(node, samples);
      } else if (block instanceof Chart chart) {
        chart(node, chart);
      }
    }
    try {
      return MAPPER.writerWithDefaultPrettyPrinter().writeValueAsString(root) + "\n";
    } catch (JsonProcessingException e) {
      throw new IllegalStateException("a JSON tree that cannot be written", e);
    }
  }

  private static void table(ObjectNode node, Table table) {
    node.put("type", "table").put("title", table.title());
    ArrayNode columns = node.putArray("columns");
    for (Column column : table.columns()) {
      columns.addObject().put("name", column.name()).put("unit", column.unit());
    }
    ArrayNode rows = node.putArray("rows");
    for (List<Object> row : table.rows()) {
      ArrayNode cells = rows.addArray();
      for (Object cell : row) {
        if (cell instanceof Double number) {
          add(cells, number);
        } else {
          cells.add(cell.toString());
        }
      }
    }
  }

  private static void samples(ObjectNode node, SampleTexts samples) {
    node.put("type", "samples").put("title", samples.title()).put("language", samples.language());
    ArrayNode sources = node.putArray("sources");
    samples.sources().forEach(sources::add);
    ArrayNode rows = node.putArray("rows");
    for (SampleTexts.Row row : samples.rows()) {
      ArrayNode texts = rows.addObject().put("prompt", row.prompt()).putArray("texts");
      row.texts().forEach(texts::add);
    }
  }

  private static void chart(ObjectNode node, Chart chart) {
    if (chart instanceof LineChart line) {
      node.put("type", "lines").put("title", line.title());
      axis(node.putObject("x"), line.x());
      axis(node.putObject("y"), line.y());
      ArrayNode list = node.putArray("series");
      for (Series series : line.series()) {
        ObjectNode one = list.addObject().put("name", series.name());
        ArrayNode x = one.putArray("x");
        ArrayNode y = one.putArray("y");
        for (int i = 0; i < series.size(); i++) {
          add(x, series.x(i));
          add(y, series.y(i));
        }
      }
    } else if (chart instanceof BarChart bar) {
      node.put("type", bar.isStacked() ? "stacked bars" : "bars").put("title", bar.title());
      axis(node.putObject("value"), bar.value());
      ArrayNode categories = node.putArray("categories");
      bar.categories().forEach(categories::add);
      ArrayNode list = node.putArray("parts");
      for (BarChart.Part part : bar.parts()) {
        ArrayNode values = list.addObject().put("name", part.name()).putArray("values");
        part.values().forEach(v -> add(values, v));
      }
    } else if (chart instanceof ScatterChart scatter) {
      node.put("type", "points").put("title", scatter.title());
      axis(node.putObject("x"), scatter.x());
      axis(node.putObject("y"), scatter.y());
      ArrayNode list = node.putArray("points");
      for (ScatterChart.Point point : scatter.points()) {
        ArrayNode xy = list.addObject().put("name", point.name()).putArray("at");
        add(xy, point.x());
        add(xy, point.y());
      }
    } else if (chart instanceof Histogram histogram) {
      node.put("type", "histogram").put("title", histogram.title());
      axis(node.putObject("x"), histogram.x());
      ArrayNode edges = node.putArray("edges");
      for (int b = 0; b <= histogram.bins(); b++) {
        edges.add(histogram.edge(b));
      }
      ArrayNode list = node.putArray("samples");
      for (int s = 0; s < histogram.samples().size(); s++) {
        ObjectNode one = list.addObject().put("name", histogram.samples().get(s).name());
        ArrayNode counts = one.putArray("counts");
        for (int b = 0; b < histogram.bins(); b++) {
          counts.add(histogram.count(s, b));
        }
      }
    }
  }

  private static void axis(ObjectNode node, Axis axis) {
    node.put("label", axis.label()).put("unit", axis.unit());
  }

  private static void add(ArrayNode array, double value) {
    if (!Double.isFinite(value)) {
      array.addNull();
    } else if (value == Math.rint(value) && Math.abs(value) < 1e15) {
      array.add((long) value);
    } else {
      array.add(value);
    }
  }
}
