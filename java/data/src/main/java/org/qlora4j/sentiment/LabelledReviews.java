// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.rows.BadRow;
import org.qlora4j.rows.RawRow;
import org.qlora4j.rows.RowFormat;
import org.qlora4j.rows.RowParser;
import org.qlora4j.rows.RowReader;

/**
 * Reviews with their labels, from a TSV, CSV or JSONL file; by default with NSMC's columns {@code
 * id, document, label}. Labels are 1 or 0, positive or negative, 긍정 or 부정, true or false.
 *
 * @param badRows rows that were left out, by what is wrong with them
 */
public record LabelledReviews(List<Review> reviews, Map<String, Integer> badRows) {
  private static final int MAX_ROW_BYTES = 1 << 20;

  /** More rows than this share that cannot be read are a wrong file, not bad luck. */
  private static final double MOST_BAD = 0.05;

  /** One review. */
  public record Review(String text, boolean positive) {}

  public LabelledReviews {
    reviews = List.copyOf(reviews);
    badRows = Map.copyOf(badRows);
  }

  /**
   * Reads a file; rows without a text or with another label are counted and left out.
   *
   * @param format null for what the file's name says
   * @throws InputException for no reviews, one label only, or too many rows that cannot be read
   */
  public static LabelledReviews read(
      Path file,
      @Nullable RowFormat format,
      String textField,
      String labelField,
      Progress progress) {
    List<Review> reviews = new ArrayList<>();
    Map<String, Integer> bad = new LinkedHashMap<>();
    String firstBad = "";
    long rows = 0;
    progress.start("reading reviews", 0);
    RowFormat kind = format == null ? RowFormat.of(file) : format;
    try (RowReader in = new RowReader(file, 0, kind, MAX_ROW_BYTES)) {
      RowParser parser = in.parser();
      parser.require(file.toString(), textField);
      parser.require(file.toString(), labelField);
      for (RawRow raw = in.next(); raw != null; raw = in.next()) {
        if (++rows % 10_000 == 0) {
          progress.update(rows, "");
        }
        try {
          RowParser.Row row = parser.parse(raw);
          String text = row.require(textField);
          boolean positive = label(row.require(labelField));
          if (text.isBlank()) {
            throw new BadRow(BadRow.Kind.MISSING_FIELD, "an empty text");
          }
          reviews.add(new Review(text, positive));
        } catch (BadRow e) {
          bad.merge(e.kind().name().toLowerCase(Locale.ROOT), 1, Integer::sum);
          if (firstBad.isEmpty()) {
            firstBad = file + ":" + raw.line() + ": " + e.getMessage();
          }
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot close " + file, e);
    }
    progress.finish();
    check(file, rows, reviews, firstBad);
    return new LabelledReviews(reviews, bad);
  }

  private static void check(Path file, long rows, List<Review> reviews, String firstBad) {
    if (rows == 0) {
      throw new InputException(file + ": expected labelled reviews, found none");
    }
    long bad = rows - reviews.size();
    if (bad > rows * MOST_BAD) {
      throw new InputException(
          String.format(
              Locale.ROOT,
              "%s: %,d of %,d rows have no usable text and label (at most one in twenty may); the first is %s",
              file,
              bad,
              rows,
              firstBad));
    }
    long positives = reviews.stream().filter(Review::positive).count();
    if (positives == 0 || positives == reviews.size()) {
      throw new InputException(
          file
              + ": expected positive and negative reviews, found "
              + (positives == 0 ? "negative" : "positive")
              + " ones only");
    }
  }

  private static boolean label(String text) throws BadRow {
    return switch (text.strip().toLowerCase(Locale.ROOT)) {
      case "1", "1.0", "positive", "pos", "true", "긍정" -> true;
      case "0", "0.0", "-1", "negative", "neg", "false", "부정" -> false;
      default ->
          throw new BadRow(
              BadRow.Kind.MISSING_FIELD,
              "expected the label 1 or 0, positive or negative, found " + Text.quote(text));
    };
  }
}
