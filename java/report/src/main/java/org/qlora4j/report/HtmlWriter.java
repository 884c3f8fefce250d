// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.List;

/** A report as one page: the style inline, no scripts, nothing to fetch. */
final class HtmlWriter {
  /** Says to the browser what the page may do: nothing but use its own style. */
  private static final String POLICY = "default-src 'none'; style-src 'unsafe-inline'";

  private final StringBuilder out = new StringBuilder();

  private HtmlWriter() {}

  static String write(Report report) {
    HtmlWriter writer = new HtmlWriter();
    writer.page(report);
    return writer.out.toString();
  }

  private void page(Report report) {
    out.append("<!DOCTYPE html>\n<html lang=\"").append(report.language()).append("\">\n<head>\n");
    out.append("<meta charset=\"utf-8\">\n");
    out.append("<meta http-equiv=\"Content-Security-Policy\" content=\"").append(POLICY);
    out.append("\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    element("title", "", report.title());
    out.append("<style>\n").append(style()).append("</style>\n</head>\n<body>\n");
    element("h1", "", report.title());
    for (Block block : report.blocks()) {
      if (block instanceof Heading heading) {
        element("h" + heading.level(), "", heading.text());
      } else if (block instanceof Paragraph paragraph) {
        element("p", "", paragraph.text());
      } else if (block instanceof Table table) {
        table(table);
      } else if (block instanceof SampleTexts samples) {
        samples(samples);
      } else if (block instanceof Chart chart) {
        chart(chart);
      }
    }
    out.append("</body>\n</html>\n");
  }

  private void element(String name, String attributes, String text) {
    out.append('<').append(name).append(attributes).append('>').append(Escape.html(text));
    out.append("</").append(name).append(">\n");
  }

  private void table(Table table) {
    out.append("<table>\n");
    element("caption", "", table.title());
    out.append("<thead><tr>\n");
    for (Column column : table.columns()) {
      out.append(column.isNumber() ? "<th scope=\"col\" class=\"number\">" : "<th scope=\"col\">");
      out.append(Escape.html(column.name()));
      if (!column.unit().isEmpty()) {
        out.append("<span class=\"unit\">").append(Escape.html(column.unit())).append("</span>");
      }
      out.append("</th>\n");
    }
    out.append("</tr></thead>\n<tbody>\n");
    for (List<Object> row : table.rows()) {
      out.append("<tr>");
      for (int i = 0; i < row.size(); i++) {
        if (row.get(i) instanceof Double number) {
          out.append("<td class=\"number\">");
          out.append(Numbers.fixed(number, table.columns().get(i).digits()));
        } else {
          out.append("<td>").append(Escape.html(row.get(i).toString()));
        }
        out.append("</td>");
      }
      out.append("</tr>\n");
    }
    out.append("</tbody>\n</table>\n");
  }

  private void samples(SampleTexts samples) {
    String language = " lang=\"" + Escape.html(samples.language()) + "\"";
    out.append("<table class=\"samples\">\n");
    element("caption", "", samples.title());
    out.append("<thead><tr>\n");
    for (String source : samples.sources()) {
      element("th", " scope=\"col\"", source);
    }
    out.append("</tr></thead>\n<tbody").append(language).append(">\n");
    for (SampleTexts.Row row : samples.rows()) {
      if (!row.prompt().isEmpty()) {
        out.append("<tr class=\"prompt\">");
        element("td", " colspan=\"" + samples.sources().size() + "\"", row.prompt());
        out.append("</tr>\n");
      }
      out.append("<tr>");
      for (String text : row.texts()) {
        element("td", "", text);
      }
      out.append("</tr>\n");
    }
    out.append("</tbody>\n</table>\n");
  }

  private void chart(Chart chart) {
    out.append("<figure>\n");
    element("figcaption", "", chart.title());
    out.append(ChartSvg.draw(chart));
    List<String> names = ChartSvg.legend(chart);
    if (!names.isEmpty()) {
      out.append("<ul class=\"legend\">\n");
      for (int i = 0; i < names.size(); i++) {
        out.append("<li><svg width=\"28\" height=\"12\" aria-hidden=\"true\">");
        if (chart instanceof LineChart) {
          out.append("<line class=\"line ").append(Svg.series(i));
          out.append("\" x1=\"0\" y1=\"6\" x2=\"28\" y2=\"6\"/>");
        } else {
          out.append("<rect class=\"bar ").append(Svg.series(i));
          out.append("\" x=\"8\" width=\"12\" height=\"12\"/>");
        }
        out.append("</svg>").append(Escape.html(names.get(i))).append("</li>\n");
      }
      out.append("</ul>\n");
    }
    out.append("</figure>\n");
  }

  private static String style() {
    try (InputStream in = HtmlWriter.class.getResourceAsStream("report.css")) {
      if (in == null) {
        throw new IllegalStateException("report.css is missing from the class path");
      }
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new UncheckedIOException("cannot read report.css", e);
    }
  }
}
