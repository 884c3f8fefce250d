// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * How much of something may be in memory: a share of it, or a number of bytes.
 *
 * @param share above 0 and at most 1; 0 where bytes count
 * @param bytes above 0; 0 where the share counts
 */
public record MemoryBudget(double share, long bytes) {

  private static final Pattern TEXT = Pattern.compile("(\\d+\\.?\\d*|\\.\\d+)\\s*(%|[kmgt]?i?b?)");

  private static final Map<String, Double> UNITS =
      Map.of("", 1.0, "k", 0x1p10, "m", 0x1p20, "g", 0x1p30, "t", 0x1p40);

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

  /** "25%", "512MiB", "1.5 GB" (a suffix counts in powers of 1024), "1048576"; else null. */
  public static @Nullable MemoryBudget parse(String text) {
    Matcher matcher = TEXT.matcher(text.strip().toLowerCase(Locale.ROOT));
    if (!matcher.matches()) {
      return null;
    }
    double number = Double.parseDouble(matcher.group(1));
    String unit = matcher.group(2);
    if (unit.equals("%")) {
      return number > 0 && number <= 100 ? ofShare(number / 100) : null;
    }
    double bytes = number * UNITS.getOrDefault(unit.replaceAll("i?b?$", ""), Double.NaN);
    return bytes >= 1 && bytes < 0x1p62 ? ofBytes((long) bytes) : null;
  }

  /** Bytes of the budget for {@code total} bytes, at most those. */
  public long of(long total) {
    return Math.min(total, bytes > 0 ? bytes : (long) Math.ceil(share * total));
  }
}
