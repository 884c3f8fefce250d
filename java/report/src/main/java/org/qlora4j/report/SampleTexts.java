// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.ArrayList;
import java.util.List;

/**
 * Texts of several sources beside each other, one row a prompt.
 *
 * @param title what is compared
 * @param language of the texts, as HTML names it: "ko", "en"
 * @param sources names of the columns, at most 4
 * @param rows what each source made of each prompt
 */
public record SampleTexts(String title, String language, List<String> sources, List<Row> rows)
    implements Block {
  /** Refuses rows of another width than the sources. */
  public SampleTexts {
    sources = List.copyOf(sources);
    rows = List.copyOf(rows);
    if (sources.isEmpty() || sources.size() > 4) {
      throw new IllegalArgumentException(
          title + ": expected 1 to 4 texts beside each other, found " + sources.size());
    }
    for (Row row : rows) {
      if (row.texts().size() != sources.size()) {
        throw new IllegalArgumentException(
            title
                + ": expected "
                + sources.size()
                + " texts in a row, found "
                + row.texts().size());
      }
    }
  }

  /**
   * One prompt.
   *
   * @param prompt what stands above the texts; may be empty
   * @param texts one a source
   */
  public record Row(String prompt, List<String> texts) {
    /** Keeps a copy of the list. */
    public Row {
      texts = List.copyOf(texts);
    }
  }

  /** Adds rows one by one. */
  public static final class Builder {
    private final String title;
    private final String language;
    private final List<String> sources;
    private final List<Row> rows = new ArrayList<>();

    /** Without a row. */
    public Builder(String title, String language, String... sources) {
      this.title = title;
      this.language = language;
      this.sources = List.of(sources);
    }

    /** Adds a prompt and what each source made of it. */
    public Builder row(String prompt, String... texts) {
      rows.add(new Row(prompt, List.of(texts)));
      return this;
    }

    /** The block. */
    public SampleTexts build() {
      return new SampleTexts(title, language, sources, rows);
    }
  }
}
