// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.EnumMap;
import java.util.Map;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Limit;

/**
 * The machine's limits as a pack measures them. On a machine with other work they change from
 * minute to minute, so a figure is measured again when it is no longer fresh.
 */
public final class Limits {
  /** Measuring arithmetic takes milliseconds, so it is done beside every row. */
  private static final double ARITHMETIC_FRESH_SECONDS = 1;

  /** Reading takes new memory, which the system must first clear. */
  private static final double READ_FRESH_SECONDS = 30;

  private final KernelPack pack;
  private final long readBytes;
  private final Map<Limit, Figure> figures = new EnumMap<>(Limit.class);

  /** A measured figure and when it was measured. */
  private record Figure(double perSecond, long nanoTime) {
    boolean isFresh(Limit limit) {
      double age = (System.nanoTime() - nanoTime) / 1e9;
      return age < (limit == Limit.READ ? READ_FRESH_SECONDS : ARITHMETIC_FRESH_SECONDS);
    }
  }

  /**
   * @param readBytes how much memory to read for the bandwidth; see {@link Machine#outOfCacheBytes}
   */
  public Limits(KernelPack pack, long readBytes) {
    this.pack = pack;
    this.readBytes = readBytes;
  }

  /** The figure per second; NaN where the pack measures none. */
  public double perSecond(Limit limit) {
    Figure figure = figures.get(limit);
    if (figure == null || !figure.isFresh(limit)) {
      figure = new Figure(measure(limit), System.nanoTime());
      figures.put(limit, figure);
    }
    return figure.perSecond();
  }

  private double measure(Limit limit) {
    try {
      if (limit != Limit.READ) {
        return limit.measure(pack);
      }
      try (DeviceBuffer memory = DeviceBuffer.allocate(pack, readBytes)) {
        memory.fill(1);
        return Limit.read(pack, memory);
      }
    } catch (UnsupportedOperationException e) {
      return Double.NaN;
    }
  }

  /**
   * Which part of the limit a call reached: the larger of its operations over the peak and its
   * bytes over the bandwidth, over its time. Above 1 where its data came out of a cache. NaN where
   * a limit it needs is not known.
   *
   * @param arithmetic the limit of the call's operations
   */
  public double share(Limit arithmetic, double operations, double bytes, double seconds) {
    double floor = bytes / perSecond(Limit.READ);
    if (operations > 0) {
      floor = Math.max(floor, operations / perSecond(arithmetic));
    }
    return floor / seconds;
  }
}
