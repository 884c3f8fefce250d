// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.List;
import java.util.Map;

/**
 * Bars from the left, one below the other, so that names of any length can be read. With several
 * parts, either stacked to one bar or side by side.
 */
public final class BarChart implements Chart {
  private final String title;
  private final Axis value;
  private final List<String> categories;
  private final List<Part> parts;
  private final boolean stacked;

  /**
   * What the bars of one colour show.
   *
   * @param name its name in the legend
   * @param values one a category, at least 0; NaN for none
   */
  public record Part(String name, List<Double> values) {
    /** Keeps a copy of the list. */
    public Part {
      values = List.copyOf(values);
    }
  }

  private BarChart(
      String title, Axis value, List<String> categories, List<Part> parts, boolean stacked) {
    for (Part part : parts) {
      if (part.values().size() != categories.size()) {
        throw new IllegalArgumentException(
            String.format(
                "%s: expected %d values of %s, found %d",
                title, categories.size(), part.name(), part.values().size()));
      }
      for (double v : part.values()) {
        if (v < 0 || Double.isInfinite(v)) {
          throw new IllegalArgumentException(title + ": a bar cannot show " + v);
        }
      }
    }
    this.title = title;
    this.value = value;
    this.categories = List.copyOf(categories);
    this.parts = List.copyOf(parts);
    this.stacked = stacked;
  }

  /** A bar a category and part, side by side. The axis begins at 0. */
  public static BarChart grouped(
      String title, Axis value, List<String> categories, List<Part> parts) {
    return new BarChart(title, value, categories, parts, false);
  }

  /** One bar a category, of its parts one after the other. */
  public static BarChart stacked(
      String title, Axis value, List<String> categories, List<Part> parts) {
    return new BarChart(title, value, categories, parts, true);
  }

  /** The same with the parts by name, in order. */
  public static BarChart stacked(
      String title, Axis value, List<String> categories, Map<String, List<Double>> parts) {
    return stacked(
        title,
        value,
        categories,
        parts.entrySet().stream().map(e -> new Part(e.getKey(), e.getValue())).toList());
  }

  @Override
  public String title() {
    return title;
  }

  /** What the bars' length measures. */
  public Axis value() {
    return value;
  }

  /** The names left of the bars. */
  public List<String> categories() {
    return categories;
  }

  /** The colours. */
  public List<Part> parts() {
    return parts;
  }

  /** Whether a category is one bar. */
  public boolean isStacked() {
    return stacked;
  }
}
