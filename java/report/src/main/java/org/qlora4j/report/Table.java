// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.ArrayList;
import java.util.List;

/**
 * A table; numbers stand on the right.
 *
 * @param title what it shows
 * @param columns the columns
 * @param rows cells: a {@link String} in a column of texts, a {@link Double} in one of numbers, NaN
 *     where there is none
 */
public record Table(String title, List<Column> columns, List<List<Object>> rows) implements Block {
  /** Refuses cells that do not fit their column. */
  public Table {
    columns = List.copyOf(columns);
    rows = rows.stream().map(List::copyOf).toList();
    for (List<Object> row : rows) {
      if (row.size() != columns.size()) {
        throw new IllegalArgumentException(
            title + ": expected " + columns.size() + " cells, found " + row.size());
      }
      for (int i = 0; i < row.size(); i++) {
        boolean number = columns.get(i).isNumber();
        if (number ? !(row.get(i) instanceof Double) : !(row.get(i) instanceof String)) {
          throw new IllegalArgumentException(
              String.format(
                  "%s, column %s: expected a %s, found %s",
                  title, columns.get(i).name(), number ? "number" : "text", row.get(i)));
        }
      }
    }
  }

  /** Adds rows one by one. */
  public static final class Builder {
    private final String title;
    private final List<Column> columns;
    private final List<List<Object>> rows = new ArrayList<>();

    /** Without a row. */
    public Builder(String title, Column... columns) {
      this.title = title;
      this.columns = List.of(columns);
    }

    /** Adds a row of texts and numbers of any kind. */
    public Builder row(Object... cells) {
      List<Object> row = new ArrayList<>();
      for (Object cell : cells) {
        row.add(cell instanceof Number number ? (Object) number.doubleValue() : cell);
      }
      rows.add(row);
      return this;
    }

    /** The table. */
    public Table build() {
      return new Table(title, columns, rows);
    }
  }
}
