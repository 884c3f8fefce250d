// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;

/** Room on disks, asked for before hours of work end on a full one. */
public final class DiskSpace {
  private DiskSpace() {}

  /**
   * Checks that {@code bytes} more fit where {@code target} will be.
   *
   * @throws InputException when they do not
   */
  public static void require(Path target, long bytes) {
    Path existing = target.toAbsolutePath().normalize();
    while (existing != null && !Files.exists(existing)) {
      existing = existing.getParent();
    }
    long free = free(existing);
    if (free < bytes) {
      throw new InputException(
          "cannot write "
              + target
              + ": expected "
              + Text.bytes(bytes)
              + " of free disk space there, found "
              + Text.bytes(free));
    }
  }

  private static long free(@Nullable Path existing) {
    try {
      return existing == null ? Long.MAX_VALUE : Files.getFileStore(existing).getUsableSpace();
    } catch (IOException e) {
      // A system that does not tell; writing will.
      return Long.MAX_VALUE;
    }
  }
}
