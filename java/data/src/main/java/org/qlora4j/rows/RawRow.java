// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.rows;

import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * A row as it stands in its file.
 *
 * @param file index of the file among those that are read
 * @param line of the row's begin, from 1
 * @param bytes the row without its line end; its beginning where the row is too long
 * @param problem what is wrong with it, where that is already known
 */
public record RawRow(int file, long line, byte[] bytes, @Nullable BadRow problem) {
  @Override
  public boolean equals(@Nullable Object other) {
    return other instanceof RawRow row && row.file == file && row.line == line;
  }

  @Override
  public int hashCode() {
    return Objects.hash(file, line);
  }
}
