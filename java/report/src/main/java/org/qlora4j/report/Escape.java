// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/** Text from anywhere as text of a page, never as its markup. */
final class Escape {
  private Escape() {}

  /**
   * For HTML and SVG, in an element or in an attribute in double quotes. Characters that neither
   * may hold become the replacement character.
   */
  static String html(String text) {
    StringBuilder out = new StringBuilder(text.length() + 16);
    text.codePoints()
        .forEach(
            c -> {
              switch (c) {
                case '&' -> out.append("&amp;");
                case '<' -> out.append("&lt;");
                case '>' -> out.append("&gt;");
                case '"' -> out.append("&quot;");
                case '\'' -> out.append("&#39;");
                default -> out.appendCodePoint(isAllowed(c) ? c : 0xFFFD);
              }
            });
    return out.toString();
  }

  /** For a cell of a Markdown table, or a line of its own: no markup, no line end. */
  static String markdown(String text) {
    StringBuilder out = new StringBuilder(text.length() + 16);
    text.strip()
        .codePoints()
        .forEach(
            c -> {
              if (c == '\n') {
                out.append("<br>");
              } else if (c == '<') {
                out.append("&lt;");
              } else if ("\\`*_{}[]>|#~&$".indexOf(c) >= 0) {
                out.append('\\').appendCodePoint(c);
              } else {
                out.appendCodePoint(isAllowed(c) ? c : 0xFFFD);
              }
            });
    return out.toString();
  }

  private static boolean isAllowed(int c) {
    return c == '\n'
        || c == '\t'
        || (c >= 0x20
            && c != 0x7F
            && !(c >= 0x80 && c < 0xA0)
            && !(c >= 0xD800 && c < 0xE000)
            && c != 0xFFFE
            && c != 0xFFFF);
  }
}
