// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/**
 * A column of a table.
 *
 * @param name its head
 * @param unit of its numbers, below the head; empty for none
 * @param digits after the point; -1 for text
 */
public record Column(String name, String unit, int digits) {
  /** A column of texts. */
  public static Column text(String name) {
    return new Column(name, "", -1);
  }

  /** A column of numbers. */
  public static Column number(String name, String unit, int digits) {
    return new Column(name, unit, digits);
  }

  /** Whether it holds numbers. */
  public boolean isNumber() {
    return digits >= 0;
  }

  /** "time per step (ms)". */
  public String title() {
    return unit.isEmpty() ? name : name + " (" + unit + ")";
  }
}
