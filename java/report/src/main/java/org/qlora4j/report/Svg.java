// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.Locale;

/**
 * An inline picture, element by element. Colours and fonts are the page's style; sizes in pixels.
 */
final class Svg {
  /** Size of text, as the page's style sets it. */
  static final double TEXT = 13;

  /** How many colours the page's style has. */
  static final int COLOURS = 10;

  /** How many dash patterns the page's style has. */
  static final int DASHES = 3;

  private final StringBuilder out = new StringBuilder();

  /** Where a text's given point is. */
  enum Anchor {
    START,
    MIDDLE,
    END
  }

  Svg(double width, double height, String title) {
    out.append(
        String.format(
            Locale.ROOT,
            "<svg class=\"chart\" viewBox=\"0 0 %s %s\" width=\"%s\" height=\"%s\" role=\"img\" aria-label=\"%s\">",
            n(width),
            n(height),
            n(width),
            n(height),
            Escape.html(title)));
  }

  /** The style classes of a series: its own colour, and its own dashes where colours run out. */
  static String series(int index) {
    return "c" + index % COLOURS + " d" + index / COLOURS % DASHES;
  }

  /** About as wide as a text is at the page's font: never much less. */
  static double width(String text) {
    return TEXT * text.codePoints().mapToDouble(c -> c >= 0x1100 ? 1.0 : 0.62).sum();
  }

  Svg line(String style, double x1, double y1, double x2, double y2) {
    out.append("<line class=\"").append(style).append("\"");
    out.append(
        String.format(" x1=\"%s\" y1=\"%s\" x2=\"%s\" y2=\"%s\"/>", n(x1), n(y1), n(x2), n(y2)));
    return this;
  }

  /** A filled rectangle whose text appears under the mouse. */
  Svg bar(String style, double x, double y, double width, double height, String hint) {
    out.append("<rect class=\"").append(style).append("\"");
    out.append(
        String.format(
            " x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\"><title>%s</title></rect>",
            n(x), n(y), n(Math.max(0, width)), n(height), Escape.html(hint)));
    return this;
  }

  Svg circle(String style, double x, double y, double radius, String hint) {
    out.append("<circle class=\"").append(style).append("\"");
    out.append(
        String.format(
            " cx=\"%s\" cy=\"%s\" r=\"%s\"><title>%s</title></circle>",
            n(x), n(y), n(radius), Escape.html(hint)));
    return this;
  }

  /** A line through points "x,y x,y". */
  Svg polyline(String style, String points) {
    out.append("<polyline class=\"")
        .append(style)
        .append("\" points=\"")
        .append(points)
        .append("\"/>");
    return this;
  }

  Svg text(String style, double x, double y, Anchor anchor, String text) {
    return text(style, x, y, anchor, text, "");
  }

  /** A text that reads upwards. */
  Svg textUpwards(String style, double x, double y, String text) {
    return text(
        style,
        x,
        y,
        Anchor.MIDDLE,
        text,
        String.format(" transform=\"rotate(-90 %s %s)\"", n(x), n(y)));
  }

  private Svg text(String style, double x, double y, Anchor anchor, String text, String more) {
    out.append(
        String.format(
            "<text class=\"%s\" x=\"%s\" y=\"%s\" text-anchor=\"%s\"%s>%s</text>",
            style, n(x), n(y), anchor.name().toLowerCase(Locale.ROOT), more, Escape.html(text)));
    return this;
  }

  String end() {
    return out.append("</svg>\n").toString();
  }

  static String n(double value) {
    String text = String.format(Locale.ROOT, "%.1f", value);
    return text.endsWith(".0") ? text.substring(0, text.length() - 2) : text;
  }
}
