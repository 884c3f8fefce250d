// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/**
 * Begins a section.
 *
 * @param text plain text
 * @param level 2 for a section, 3 for a part of one; the report's title is level 1
 */
public record Heading(String text, int level) implements Block {
  /** Refuses another level. */
  public Heading {
    if (level < 2 || level > 3) {
      throw new IllegalArgumentException("a heading's level is 2 or 3, not " + level);
    }
  }
}
