// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.report;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.Json;
import org.qlora4j.report.Axis;
import org.qlora4j.report.BarChart;
import org.qlora4j.report.Column;
import org.qlora4j.report.Histogram;
import org.qlora4j.report.LineChart;
import org.qlora4j.report.Report;
import org.qlora4j.report.SampleTexts;
import org.qlora4j.report.ScatterChart;
import org.qlora4j.report.Series;
import org.qlora4j.report.Table;
import org.qlora4j.tests.support.Browser;
import org.qlora4j.tests.support.ReportPage;

/** Reports of every kind of block, in their three forms. */
class ReportTest {
  private static final String NASTY = "</svg><script>alert(1)</script> & \"quoted\" 'text' \u0000";

  /** Every kind of block; as many series, long names and large numbers as a study may have. */
  private static Report everything() {
    Random random = new Random(7);
    List<Series> lines = new ArrayList<>();
    List<ScatterChart.Point> points = new ArrayList<>();
    List<String> names = new ArrayList<>();
    List<Double> weights = new ArrayList<>();
    List<Double> states = new ArrayList<>();
    for (int i = 0; i < 14; i++) {
      String name = "QLoRA NF4, double quantization " + i;
      double[] x = new double[30];
      double[] y = new double[30];
      for (int j = 0; j < x.length; j++) {
        x[j] = 1000.0 * j;
        y[j] = 3 + 0.1 * i + 2 * Math.exp(-j / 8.0) + 0.02 * random.nextGaussian();
      }
      lines.add(new Series(name, x, y));
      names.add(name);
      weights.add(700 + 300.0 * i);
      states.add(i % 3 == 0 ? 0.0 : 1400.0);
      // Most of them close together, as methods that differ in little are.
      points.add(
          new ScatterChart.Point(
              "method " + i, 500 + random.nextInt(40), 3.4 + 0.01 * random.nextDouble()));
    }
    points.add(new ScatterChart.Point("full FP32", 32_000, 3.1));
    Table.Builder table =
        new Table.Builder(
            "Methods",
            Column.text("method"),
            Column.number("peak memory", "MiB", 0),
            Column.number("held-out loss", "nats per token", 4));
    table.row("full FP32", 12_345_678.4, 3.10194).row(NASTY, Double.NaN, -0.00001);
    List<Double> lengths = new ArrayList<>();
    List<Double> longer = new ArrayList<>();
    for (int i = 0; i < 100; i++) {
      lengths.add((double) (8 + random.nextInt(20)));
      longer.add((double) (30 + random.nextInt(60)));
    }
    return new Report("Report " + NASTY, "en")
        .paragraph("One line.\nAnother " + NASTY)
        .heading("Numbers")
        .add(table.build())
        .add(
            new LineChart(
                "Loss against steps " + NASTY,
                Axis.of("steps", ""),
                Axis.of("held-out loss", "nats per token"),
                lines))
        .subheading("Bars")
        .add(
            BarChart.stacked(
                "Memory by part",
                Axis.fromZero("memory", "MiB"),
                names,
                List.of(
                    new BarChart.Part("weights", weights),
                    new BarChart.Part("optimizer states", states))))
        .add(
            BarChart.grouped(
                "Beside each other",
                Axis.fromZero("share", "%"),
                List.of("전체 미세 조정", NASTY),
                List.of(
                    new BarChart.Part("base", List.of(0.125, 99.5)),
                    new BarChart.Part("tuned", List.of(Double.NaN, 1.0)))))
        .add(
            new ScatterChart(
                "Memory against error",
                Axis.logarithmic("peak memory", "MiB"),
                Axis.of("held-out loss", "nats per token"),
                points))
        .add(
            new Histogram(
                "Length of texts",
                Axis.of("length", "words"),
                List.of(
                    new Histogram.Sample("base", lengths), new Histogram.Sample("tuned", longer)),
                20))
        .add(
            new SampleTexts.Builder("Beside each other", "ko", "base", "tuned")
                .row("강남 파스타 맛집", "맛있어요.", "분위기가 좋고 파스타가 정말 맛있었어요!\n또 갈게요.")
                .row(NASTY, NASTY, "")
                .build())
        // A chart must not fail for want of data.
        .add(new LineChart("Nothing", Axis.of("x", ""), Axis.logarithmic("y", "s"), List.of()))
        .add(
            new LineChart(
                "One value",
                Axis.of("x", ""),
                Axis.of("y", "s"),
                List.of(new Series("one", new double[] {3}, new double[] {0.25}))));
  }

  @Test
  void browserShowsEverything(@TempDir Path dir) throws Exception {
    Path file = dir.resolve("report.html");
    Files.writeString(file, everything().html());
    try (Browser browser = Browser.start()) {
      String keep = System.getProperty("qlora4j.tests.screenshots");
      if (keep != null) {
        browser.open(file, ReportPage.WIDTH, true);
        browser.screenshot(Path.of(keep).resolve("report-dark.png"));
        browser.open(file, ReportPage.WIDTH, false);
        browser.screenshot(Path.of(keep).resolve("report-light.png"));
      }
      ReportPage.check(browser, file, 7, 2);
      assertEquals("en", browser.evaluate("document.documentElement.lang").asText());
      assertEquals(
          "ko", browser.evaluate("document.querySelector('.samples tbody').lang").asText());
      assertEquals(
          14, browser.evaluate("document.querySelectorAll('polyline.line').length - 1").asInt());
      assertEquals(
          "right",
          browser
              .evaluate("getComputedStyle(document.querySelector('td.number')).textAlign")
              .asText());
      assertEquals(
          "rgb(20, 24, 29)",
          browser.evaluate("getComputedStyle(document.body).backgroundColor").asText(),
          "dark");
    }
  }

  /** The check of a page can fail. */
  @Test
  void aBadPageIsFound(@TempDir Path dir) throws Exception {
    Path file = dir.resolve("report.html");
    Files.writeString(
        file,
        everything().html().replace("width=\"1000\"", "style=\"width:1400px;max-width:none\""));
    try (Browser browser = Browser.start()) {
      assertThrows(AssertionError.class, () -> ReportPage.check(browser, file, 7, 2));
    }
  }

  @Test
  void textStaysText() {
    String html = everything().html();
    assertFalse(html.contains("<script"), "markup from data");
    assertFalse(html.contains("\u0000"));
    assertTrue(html.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quoted&quot;"));
    assertFalse(html.matches("(?s).*\\b(src|href|url)\\s*[=(].*"), "nothing to fetch");
    String markdown = everything().markdown();
    assertFalse(markdown.contains("<script"), markdown);
    assertTrue(markdown.contains("강남 파스타 맛집"));
  }

  @Test
  void jsonHasTheNumbers() {
    JsonNode json = Json.object(everything().json(), "report");
    JsonNode table = json.path("blocks").get(2);
    assertEquals("table", table.path("type").asText());
    assertEquals(12_345_678.4, table.path("rows").get(0).get(1).asDouble());
    assertTrue(table.path("rows").get(1).get(1).isNull(), "no number");
    assertEquals("nats per token", table.path("columns").get(2).path("unit").asText());
    JsonNode lines = json.path("blocks").get(3);
    assertEquals(14, lines.path("series").size());
    assertEquals(30, lines.path("series").get(0).path("y").size());
    JsonNode histogram = json.path("blocks").get(8);
    long counted = 0;
    for (JsonNode count : histogram.path("samples").get(1).path("counts")) {
      counted += count.asLong();
    }
    assertEquals(100, counted, "every value is in a bin");
    assertEquals(
        histogram.path("samples").get(0).path("counts").size() + 1, histogram.path("edges").size());
  }

  @Test
  void markdownHasTheTables() {
    String markdown = everything().markdown();
    assertTrue(
        markdown.contains(
            "| method | peak memory (MiB) | held-out loss (nats per token) |\n|---|---:|---:|\n"
                + "| full FP32 | 12\u2009345\u2009678 | 3.1019 |"),
        markdown);
    assertTrue(markdown.contains("| 0.0000 |"), "no negative zero");
    assertTrue(markdown.contains("| 29000 |"), "the last point of a long line");
  }

  @Test
  void wrongShapesAreRefused() {
    assertThrows(
        IllegalArgumentException.class,
        () -> new Series("a", new double[] {1}, new double[] {1, 2}));
    assertThrows(
        IllegalArgumentException.class,
        () -> new Table.Builder("t", Column.text("a")).row(3.0).build());
    assertThrows(
        IllegalArgumentException.class,
        () -> new Table.Builder("t", Column.text("a")).row("x", "y").build());
    assertThrows(
        IllegalArgumentException.class,
        () ->
            BarChart.stacked(
                "b",
                Axis.of("x", ""),
                List.of("one"),
                List.of(new BarChart.Part("p", List.of(1.0, 2.0)))));
    assertThrows(IllegalArgumentException.class, () -> new Report("t", "en\" onload=\"x"));
  }
}
