// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.List;
import java.util.Map;

/**
 * What a run read, kept and dropped. {@code rows = training + heldOut + the sum of the drops},
 * which is checked.
 *
 * @param rows rows that were read; blank lines and headers are none
 * @param drops how many rows each reason dropped; every reason is there
 * @param samples dropped rows, a few for each reason
 * @param steps what cleaning took out; every step is there
 * @param words words of the completions' texts
 * @param positive how many of the examples have a probability of being positive in [i/10,
 *     (i+1)/10); empty where no text was judged
 * @param peakBytes peak memory of the process
 */
public record RefineReport(
    long rows,
    long training,
    long heldOut,
    Map<DropReason, Long> drops,
    Map<DropReason, List<Sample>> samples,
    Map<CleaningStep, Step> steps,
    Words words,
    List<Long> positive,
    double seconds,
    long peakBytes) {

  /**
   * A dropped row: "file:line", what about it, and the beginning of its text without personal data.
   */
  public record Sample(String source, String detail, String text) {}

  /** How many posts a cleaning step changed, and how much it found in them. */
  public record Step(long posts, long found) {}

  /** Fewest, mean and most words of an example. */
  public record Words(int least, double mean, int most) {}

  public RefineReport {
    positive = List.copyOf(positive);
    long sum = drops.values().stream().mapToLong(Long::longValue).sum();
    if (rows != training + heldOut + sum) {
      throw new IllegalStateException(
          "rows that nobody accounts for: "
              + rows
              + " read, "
              + training
              + " and "
              + heldOut
              + " kept, "
              + sum
              + " dropped");
    }
  }

  /** Rows that became examples. */
  public long kept() {
    return training + heldOut;
  }
}
