// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.rows;

import java.nio.file.Path;
import java.util.Locale;
import org.qlora4j.common.InputException;

/** How rows are written. */
public enum RowFormat {
  /** One JSON object a line. */
  JSONL,
  /**
   * RFC 4180: commas, values in double quotes may hold line ends; the first record names the
   * columns.
   */
  CSV,
  /** Tabs; quotes mean nothing; the first line names the columns. */
  TSV;

  /**
   * The format that a file's name says, with or without {@code .gz} or {@code .xz} behind it.
   * {@code .txt} is taken for TSV.
   *
   * @throws InputException for another name
   */
  public static RowFormat of(Path file) {
    String name = file.toString().toLowerCase(Locale.ROOT);
    if (name.endsWith(".gz") || name.endsWith(".xz")) {
      name = name.substring(0, name.length() - 3);
    }
    if (name.endsWith(".jsonl") || name.endsWith(".ndjson")) {
      return JSONL;
    }
    if (name.endsWith(".csv")) {
      return CSV;
    }
    if (name.endsWith(".tsv") || name.endsWith(".txt")) {
      return TSV;
    }
    throw new InputException(
        file
            + ": expected a name that ends in .jsonl, .csv, .tsv or .txt (or one of these and .gz or .xz); otherwise say the format");
  }
}
