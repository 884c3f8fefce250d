// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;

/**
 * How much of the machine's processors others used while this process worked, so that a reader
 * knows what its times are worth. From {@code /proc/stat}.
 */
public final class OtherLoad {
  /** Units of /proc/stat in a second, the same on every Linux of today. */
  private static final double TICKS = 100;

  /** From so many on, times are not worth comparing. */
  public static final double CROWDED = 0.15;

  private final long startedAt = System.nanoTime();
  private final double busy = busySeconds();
  private final double own = ownSeconds();

  /** Begins to watch. */
  public OtherLoad() {}

  /**
   * Processors that others kept busy since then, on average; NaN where the system does not tell.
   */
  public double cpus() {
    double seconds = (System.nanoTime() - startedAt) / 1e9;
    return Math.max(0, (busySeconds() - busy - (ownSeconds() - own)) / seconds);
  }

  private static double ownSeconds() {
    return ProcessHandle.current().info().totalCpuDuration().map(Duration::toNanos).orElse(0L)
        / 1e9;
  }

  private static double busySeconds() {
    try {
      List<String> lines = Files.readAllLines(Path.of("/proc/stat"), StandardCharsets.ISO_8859_1);
      // cpu user nice system idle iowait irq softirq steal
      String[] fields = lines.get(0).trim().split("\\s+", -1);
      double ticks = 0;
      for (int i = 1; i <= 8 && i < fields.length; i++) {
        ticks += i == 4 || i == 5 ? 0 : Double.parseDouble(fields[i]);
      }
      return ticks / TICKS;
    } catch (IOException | NumberFormatException e) {
      return Double.NaN;
    }
  }
}
