// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.ArrayList;
import java.util.List;

/**
 * A report, block by block, and the three forms it can be written in. A program writes the texts
 * where it wants them.
 *
 * <pre>{@code
 * Report report = new Report("Methods compared", "en");
 * report.heading("Memory").paragraph("Peak of each process.").add(table).add(chart);
 * Files.writeString(file, report.html());
 * }</pre>
 */
public final class Report {
  private final String title;
  private final String language;
  private final List<Block> blocks = new ArrayList<>();

  /**
   * An empty report.
   *
   * @param title on top, and in the browser's tab
   * @param language of its text, as HTML names it: "en", "ko"
   */
  public Report(String title, String language) {
    if (!language.matches("[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")) {
      throw new IllegalArgumentException("not a language tag: " + language);
    }
    this.title = title;
    this.language = language;
  }

  /** Begins a section. */
  public Report heading(String text) {
    return add(new Heading(text, 2));
  }

  /** Begins a part of a section. */
  public Report subheading(String text) {
    return add(new Heading(text, 3));
  }

  /** Adds plain text. */
  public Report paragraph(String text) {
    return add(new Paragraph(text));
  }

  /** Adds a block. */
  public Report add(Block block) {
    blocks.add(block);
    return this;
  }

  /** What it is called. */
  public String title() {
    return title;
  }

  /** The language of its text. */
  public String language() {
    return language;
  }

  /** What was added, in order. */
  public List<Block> blocks() {
    return List.copyOf(blocks);
  }

  /** One HTML page with everything in it. */
  public String html() {
    return HtmlWriter.write(this);
  }

  /** Every number at full precision: the blocks in order, indented, with a line end. */
  public String json() {
    return JsonWriter.write(this);
  }

  /** Text with tables in GitHub's Markdown; a chart is the table of its numbers. */
  public String markdown() {
    return MarkdownWriter.write(this);
  }
}
