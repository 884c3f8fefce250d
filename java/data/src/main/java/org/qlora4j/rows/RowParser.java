// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.rows;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.MappingIterator;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.dataformat.csv.CsvMapper;
import com.fasterxml.jackson.dataformat.csv.CsvParser;
import java.io.IOException;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/** Turns raw rows of one file into fields. Thread-safe. */
public final class RowParser {
  private static final ObjectReader CSV =
      new CsvMapper().enable(CsvParser.Feature.WRAP_AS_ARRAY).readerFor(String[].class);

  private final RowFormat format;
  private final List<String> columns;

  private RowParser(RowFormat format, List<String> columns) {
    this.format = format;
    this.columns = List.copyOf(columns);
  }

  static RowParser jsonl() {
    return new RowParser(RowFormat.JSONL, List.of());
  }

  static RowParser table(RowFormat format, List<String> columns) {
    return new RowParser(format, columns.stream().map(String::strip).toList());
  }

  /**
   * Checks that a table has a column; JSON Lines have no columns, there each row is asked.
   *
   * @throws InputException naming the columns that there are
   */
  public void require(String source, String field) {
    if (format != RowFormat.JSONL && !columns.contains(field)) {
      throw new InputException(
          source
              + ": expected a column "
              + Text.quote(field)
              + ", found "
              + Text.quote(String.join(", ", columns)));
    }
  }

  /** The fields of a row. */
  public Row parse(RawRow raw) throws BadRow {
    BadRow problem = raw.problem();
    if (problem != null) {
      throw problem;
    }
    String text = decode(raw);
    if (format == RowFormat.JSONL) {
      ObjectNode object;
      try {
        object = Json.object(text, "");
      } catch (InputException e) {
        String message = String.valueOf(e.getMessage());
        throw new BadRow(
            BadRow.Kind.MALFORMED, message.startsWith(": ") ? message.substring(2) : message);
      }
      return new Row(object, Map.of());
    }
    List<String> cells = cells(format, text);
    if (cells.size() != columns.size()) {
      throw new BadRow(
          BadRow.Kind.MALFORMED, "expected " + columns.size() + " columns, found " + cells.size());
    }
    Map<String, String> values = new LinkedHashMap<>();
    for (int i = 0; i < cells.size(); i++) {
      values.put(columns.get(i), cells.get(i));
    }
    return new Row(null, values);
  }

  /** A row's text. */
  public static String decode(RawRow raw) throws BadRow {
    String text = Text.utf8(raw.bytes());
    if (text == null) {
      throw new BadRow(BadRow.Kind.NOT_UTF8, "bytes that are not UTF-8");
    }
    return text;
  }

  static List<String> cells(RowFormat format, String text) throws BadRow {
    if (format == RowFormat.TSV) {
      return Arrays.asList(text.split("\t", -1));
    }
    try (MappingIterator<String[]> records = CSV.readValues(text)) {
      String[] cells = records.hasNext() ? records.next() : new String[0];
      if (records.hasNext()) {
        throw new BadRow(BadRow.Kind.MALFORMED, "more than one record on a line");
      }
      return Arrays.asList(cells);
    } catch (JsonProcessingException e) {
      throw new BadRow(BadRow.Kind.MALFORMED, "not CSV: " + Text.oneLine(e.getOriginalMessage()));
    } catch (IOException | RuntimeException e) {
      throw new BadRow(
          BadRow.Kind.MALFORMED, "not CSV: " + Text.oneLine(String.valueOf(e.getMessage())));
    }
  }

  /** Named values of one row. */
  public static final class Row {
    private final @Nullable ObjectNode object;
    private final Map<String, String> cells;

    private Row(@Nullable ObjectNode object, Map<String, String> cells) {
      this.object = object;
      this.cells = cells;
    }

    /**
     * A field's text, or null where there is none. Numbers are written out, lists joined by commas.
     */
    public @Nullable String get(String field) throws BadRow {
      if (object == null) {
        return cells.get(field);
      }
      var value = object.get(field);
      if (value == null || value.isNull()) {
        return null;
      }
      if (value.isValueNode()) {
        return value.asText();
      }
      if (value.isArray()) {
        StringBuilder joined = new StringBuilder();
        for (var element : value) {
          if (!element.isValueNode()) {
            throw new BadRow(
                BadRow.Kind.MISSING_FIELD, field + ": expected text, found " + Json.kind(element));
          }
          joined.append(joined.isEmpty() ? "" : ", ").append(element.asText());
        }
        return joined.toString();
      }
      throw new BadRow(
          BadRow.Kind.MISSING_FIELD, field + ": expected text, found " + Json.kind(value));
    }

    /** A field's text. */
    public String require(String field) throws BadRow {
      String value = get(field);
      if (value == null) {
        throw new BadRow(BadRow.Kind.MISSING_FIELD, "no " + field);
      }
      return value;
    }
  }
}
