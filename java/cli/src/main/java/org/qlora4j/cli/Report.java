// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;

/** Prints tables, and writes the same figures as JSON where the user asked for it. */
final class Report {
  private Report() {}

  /**
   * Rows of cells, the first row the heading, as columns: the first to the left, the others to the
   * right.
   */
  static List<String> table(List<List<String>> rows) {
    List<Integer> widths = new ArrayList<>();
    for (List<String> row : rows) {
      for (int i = 0; i < row.size(); i++) {
        int width = width(row.get(i));
        if (i == widths.size()) {
          widths.add(width);
        } else {
          widths.set(i, Math.max(widths.get(i), width));
        }
      }
    }
    List<String> lines = new ArrayList<>();
    for (List<String> row : rows) {
      StringBuilder line = new StringBuilder();
      for (int i = 0; i < row.size(); i++) {
        String pad = " ".repeat(widths.get(i) - width(row.get(i)));
        line.append(i == 0 ? row.get(i) + pad : "   " + pad + row.get(i));
      }
      lines.add(line.toString().stripTrailing());
    }
    return lines;
  }

  /** Columns a terminal gives a text: two for Hangul, Kana and Han. */
  private static int width(String text) {
    return text.codePoints().map(c -> isWide(c) ? 2 : 1).sum();
  }

  private static boolean isWide(int c) {
    return switch (Character.UnicodeScript.of(c)) {
      case HANGUL, HAN, HIRAGANA, KATAKANA -> true;
      default -> false;
    };
  }

  /** What is in an output directory will be deleted, so it must be an earlier result or nothing. */
  static void checkReplaceable(Path output) {
    String[] entries = output.toFile().list();
    if (entries != null && entries.length > 0 && !Files.exists(output.resolve("config.json"))) {
      throw new InputException(
          "OUTPUT_DIR: expected nothing there, or a model to replace, found "
              + output
              + " with other files");
    }
  }

  /** Writes `--json FILE`, whole or not at all; does nothing without one. */
  static void json(@Nullable Path file, ObjectNode figures) {
    if (file == null) {
      return;
    }
    try {
      figures.put("qlora4j_version", Version.version());
    } catch (IOException e) {
      throw new InputException("cannot read the version: " + e, e);
    }
    AtomicOutput.write(file, Json.pretty(figures).getBytes(StandardCharsets.UTF_8));
  }

  /** A number for JSON, which has no NaN: null where there is no figure. */
  static void put(ObjectNode node, String key, double value) {
    if (Double.isFinite(value)) {
      node.put(key, value);
    } else {
      node.putNull(key);
    }
  }
}
