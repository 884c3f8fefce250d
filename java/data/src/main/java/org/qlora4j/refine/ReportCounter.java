// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.ArrayList;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;

/** Counts while rows come in; becomes a {@link RefineReport}. */
final class ReportCounter {
  private static final int TENTHS = 10;

  private final int samplesEach;
  private final boolean judged;
  private final Map<DropReason, Long> drops = new EnumMap<>(DropReason.class);
  private final Map<DropReason, List<RefineReport.Sample>> samples =
      new EnumMap<>(DropReason.class);
  private final Map<CleaningStep, RefineReport.Step> steps = new EnumMap<>(CleaningStep.class);
  private final long[] positive = new long[TENTHS];
  private long rows;
  private long training;
  private long heldOut;
  private long words;
  private int least = Integer.MAX_VALUE;
  private int most;

  ReportCounter(int samplesEach, boolean judged) {
    this.samplesEach = samplesEach;
    this.judged = judged;
    for (DropReason reason : DropReason.values()) {
      samples.put(reason, new ArrayList<>());
      drops.put(reason, 0L);
    }
    for (CleaningStep step : CleaningStep.values()) {
      steps.put(step, new RefineReport.Step(0, 0));
    }
  }

  void row(Map<CleaningStep, Integer> foundInRow) {
    rows++;
    foundInRow.forEach(
        (step, found) ->
            steps.computeIfPresent(
                step, (key, sum) -> new RefineReport.Step(sum.posts() + 1, sum.found() + found)));
  }

  void drop(DropReason reason, String source, String detail, String text) {
    drops.merge(reason, 1L, Long::sum);
    List<RefineReport.Sample> list = samples.getOrDefault(reason, new ArrayList<>());
    if (list.size() < samplesEach) {
      list.add(new RefineReport.Sample(source, detail, text));
    }
  }

  void keep(boolean held, int exampleWords, double probability) {
    if (held) {
      heldOut++;
    } else {
      training++;
    }
    words += exampleWords;
    least = Math.min(least, exampleWords);
    most = Math.max(most, exampleWords);
    if (judged) {
      positive[Math.min(TENTHS - 1, (int) (probability * TENTHS))]++;
    }
  }

  long rows() {
    return rows;
  }

  long kept() {
    return training + heldOut;
  }

  long badRows() {
    long bad = 0;
    for (DropReason reason : DropReason.values()) {
      bad += reason.isBadRow() ? dropped(reason) : 0;
    }
    return bad;
  }

  /** The first bad row, for a message; empty where there is none or no samples are taken. */
  String firstBadRow() {
    for (DropReason reason : DropReason.values()) {
      List<RefineReport.Sample> list = samples.getOrDefault(reason, List.of());
      if (reason.isBadRow() && !list.isEmpty()) {
        return list.get(0).source() + ": " + list.get(0).detail();
      }
    }
    return "";
  }

  /** The reason that dropped most rows. */
  DropReason mostFrequent() {
    DropReason best = DropReason.EMPTY;
    for (DropReason reason : DropReason.values()) {
      best = dropped(reason) > dropped(best) ? reason : best;
    }
    return best;
  }

  long dropped(DropReason reason) {
    return drops.getOrDefault(reason, 0L);
  }

  long heldOut() {
    return heldOut;
  }

  long training() {
    return training;
  }

  RefineReport report(double seconds, long peakBytes) {
    List<Long> tenths = new ArrayList<>();
    for (long count : positive) {
      tenths.add(count);
    }
    return new RefineReport(
        rows,
        training,
        heldOut,
        drops,
        samples,
        steps,
        new RefineReport.Words(least, (double) words / Math.max(1, kept()), most),
        judged ? tenths : List.of(),
        seconds,
        peakBytes);
  }
}
