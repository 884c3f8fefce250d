// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Memory of this process as Linux counts it, mapped pages included, from /proc/self/status.
 *
 * @param residentBytes VmRSS, or 0 where the system does not tell
 * @param peakBytes VmHWM, the largest VmRSS so far, or 0 where the system does not tell
 */
public record MemoryUse(long residentBytes, long peakBytes) {

  /** The figures of this moment. */
  public static MemoryUse now() {
    return read(Path.of("/proc/self/status"));
  }

  static MemoryUse read(Path status) {
    long resident = 0;
    long peak = 0;
    try {
      for (String line : Files.readAllLines(status, StandardCharsets.ISO_8859_1)) {
        if (line.startsWith("VmRSS:")) {
          resident = kibibytes(line);
        } else if (line.startsWith("VmHWM:")) {
          peak = kibibytes(line);
        }
      }
    } catch (IOException e) {
      return new MemoryUse(0, 0);
    }
    return new MemoryUse(resident, peak);
  }

  private static long kibibytes(String line) {
    String digits = line.replaceAll("[^0-9]", "");
    return digits.isEmpty() ? 0 : Long.parseLong(digits) * 1024;
  }
}
