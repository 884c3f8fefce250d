// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.List;

/** What must hold of every report that a browser shows. */
public final class ReportPage {
  /** The width at which nothing may have to be scrolled sideways. */
  public static final int WIDTH = 1280;

  /** Pairs of texts on a side of a chart that lie over each other, or leave the chart. */
  private static final String OVERLAPS =
      """
      (() => {
        const bad = [];
        for (const chart of document.querySelectorAll('svg.chart')) {
          const frame = chart.getBoundingClientRect();
          const texts = [...chart.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
          for (const [text, r] of texts) {
            if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1 || r.bottom > frame.bottom + 1)
              bad.push('outside: ' + text);
          }
          for (let i = 0; i < texts.length; i++)
            for (let j = i + 1; j < texts.length; j++) {
              const [a, b] = [texts[i][1], texts[j][1]];
              const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
              const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
              if (w > 1 && h > 4) bad.push(texts[i][0] + ' / ' + texts[j][0]);
            }
        }
        return bad;
      })()""";

  private static final String SIZES =
      "[...document.querySelectorAll('svg.chart, table')].map(e => { const r = e.getBoundingClientRect();"
          + " return [e.tagName, r.width, r.height, r.right]; })";

  /** Contrast of the page's text and of a chart's text with the page, as WCAG defines it. */
  private static final String CONTRAST =
      """
      (() => {
        const light = c => { const [r, g, b] = c.match(/\\d+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const paper = light(getComputedStyle(document.body).backgroundColor);
        const inks = [getComputedStyle(document.body).color];
        for (const t of document.querySelectorAll('svg.chart text')) inks.push(getComputedStyle(t).fill);
        const worst = Math.min(...inks.map(i => ratio(light(i), paper)));
        const marks = [...document.querySelectorAll('.line')].map(e => getComputedStyle(e).stroke)
            .concat([...document.querySelectorAll('.bar, .point')].map(e => getComputedStyle(e).fill));
        return [worst, marks.length ? Math.min(...marks.map(m => ratio(light(m), paper))) : 21];
      })()""";

  private ReportPage() {}

  /**
   * Opens a report in both colour schemes: so many charts and tables of a size that can be read,
   * nothing to scroll sideways, nothing written over something else, nothing fetched.
   */
  public static void check(Browser browser, Path file, int charts, int tables)
      throws InterruptedException {
    for (boolean dark : List.of(false, true)) {
      browser.open(file, WIDTH, dark);
      assertEquals(
          charts, browser.evaluate("document.querySelectorAll('svg.chart').length").asInt());
      assertEquals(tables, browser.evaluate("document.querySelectorAll('table').length").asInt());
      double page = browser.evaluate("document.documentElement.scrollWidth").asDouble();
      assertTrue(page <= WIDTH, () -> "the page is " + page + " pixels wide");
      for (JsonNode size : browser.evaluate(SIZES)) {
        boolean chart = size.get(0).asText().equals("svg");
        assertTrue(size.get(1).asDouble() >= (chart ? 900 : 60), size::toString);
        assertTrue(size.get(2).asDouble() >= (chart ? 60 : 30), size::toString);
        assertTrue(size.get(3).asDouble() <= WIDTH - 20, size::toString);
      }
      JsonNode overlaps = browser.evaluate(OVERLAPS);
      assertEquals(0, overlaps.size(), overlaps::toString);
      JsonNode contrast = browser.evaluate(CONTRAST);
      assertTrue(contrast.get(0).asDouble() >= 4.5, () -> "text: contrast " + contrast.get(0));
      assertTrue(contrast.get(1).asDouble() >= 3, () -> "marks: contrast " + contrast.get(1));
      assertEquals(0, browser.evaluate("performance.getEntriesByType('resource').length").asInt());
      assertEquals(0, browser.evaluate("document.scripts.length").asInt());
    }
  }

  /** Rows of a table in a report's JSON. */
  public static JsonNode rows(ObjectNode report, String title) {
    for (JsonNode block : report.path("blocks")) {
      if (block.path("type").asText().equals("table")
          && block.path("title").asText().equals(title)) {
        return block.path("rows");
      }
    }
    throw new AssertionError("no table " + title);
  }
}
