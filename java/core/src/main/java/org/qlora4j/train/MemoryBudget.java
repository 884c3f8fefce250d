// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.ByteSize;

/**
 * How much of something may be in memory: a share of it, or a number of bytes.
 *
 * @param share above 0 and at most 1; 0 where bytes count
 * @param bytes above 0; 0 where the share counts
 */
public record MemoryBudget(double share, long bytes) {

  private static final Pattern SHARE = Pattern.compile("(\\d{1,15}(?:\\.\\d{1,9})?)\\s*%");

  /** Checks that one of the two counts. */
  public MemoryBudget {
    boolean isShare = share > 0 && share <= 1 && bytes == 0;
    if (!isShare && !(bytes > 0 && share == 0)) {
      throw new IllegalArgumentException(
          "expected a share of 0 to 1 or a number of bytes, found " + share + " and " + bytes);
    }
  }

  /** A share above 0 and at most 1. */
  public static MemoryBudget ofShare(double share) {
    return new MemoryBudget(share, 0);
  }

  /** A number of bytes above 0. */
  public static MemoryBudget ofBytes(long bytes) {
    return new MemoryBudget(0, bytes);
  }

  /** "25%", or bytes as {@link ByteSize} reads them ("512MiB", "1.5 GB", "1048576"); else null. */
  public static @Nullable MemoryBudget parse(String text) {
    Matcher share = SHARE.matcher(text.strip());
    if (share.matches()) {
      double number = Double.parseDouble(share.group(1));
      return number > 0 && number <= 100 ? ofShare(number / 100) : null;
    }
    long bytes = ByteSize.parse(text);
    return bytes > 0 ? ofBytes(bytes) : null;
  }

  /** Bytes of the budget for {@code total} bytes, at most those. */
  public long of(long total) {
    return Math.min(total, bytes > 0 ? bytes : (long) Math.ceil(share * total));
  }
}
