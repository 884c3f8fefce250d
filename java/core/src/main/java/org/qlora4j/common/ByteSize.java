// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Sizes as people write them: "24GB" (10^9), "24GiB" (2^30), "500M", "65536". */
public final class ByteSize {
  private static final Pattern SIZE = Pattern.compile("(\\d{1,15}(?:\\.\\d{1,9})?)\\s*([A-Za-z]*)");

  private static final Map<String, Double> UNITS =
      Map.ofEntries(
          Map.entry("", 1.0),
          Map.entry("b", 1.0),
          Map.entry("k", 1e3),
          Map.entry("kb", 1e3),
          Map.entry("m", 1e6),
          Map.entry("mb", 1e6),
          Map.entry("g", 1e9),
          Map.entry("gb", 1e9),
          Map.entry("t", 1e12),
          Map.entry("tb", 1e12),
          Map.entry("kib", 0x1p10),
          Map.entry("mib", 0x1p20),
          Map.entry("gib", 0x1p30),
          Map.entry("tib", 0x1p40));

  private ByteSize() {}

  /**
   * Bytes of a size.
   *
   * @param name option or key, for the message
   * @throws InputException for anything else
   */
  public static long parse(String name, String text) {
    long bytes = parse(text);
    if (bytes == 0) {
      throw new InputException(
          name + ": expected a size such as 24GB, 512MiB or 65536, found " + Text.quote(text));
    }
    return bytes;
  }

  /** Bytes of a size, or 0 for anything else. */
  public static long parse(String text) {
    Matcher matcher = SIZE.matcher(text.strip());
    if (!matcher.matches()) {
      return 0;
    }
    Double unit = UNITS.get(matcher.group(2).toLowerCase(Locale.ROOT));
    double bytes = unit == null ? 0 : Double.parseDouble(matcher.group(1)) * unit;
    return bytes >= 1 && bytes <= 0x1p60 ? (long) bytes : 0;
  }
}
