// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.methods;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import org.qlora4j.report.Axis;
import org.qlora4j.report.BarChart;
import org.qlora4j.report.Column;
import org.qlora4j.report.LineChart;
import org.qlora4j.report.Report;
import org.qlora4j.report.ScatterChart;
import org.qlora4j.report.Series;
import org.qlora4j.report.Table;
import org.qlora4j.study.Machine;
import org.qlora4j.study.OtherLoad;
import org.qlora4j.study.ShapeMeasurement;
import org.qlora4j.train.TrainConfig;

/** The study's report. */
final class MethodReport {
  private static final double MIB = 1 << 20;
  private static final double GB = 1e9;

  // The paper's figures: LoRA with FP16, FP8 and INT8 weights against full FP32 fine-tuning.
  private static final double PAPER_FULL_GB = 32;
  private static final double PAPER_BEST_GB = 5.7;
  private static final double PAPER_SAVED = 82.19;
  private static final double PAPER_ERROR = 53.34;
  private static final double PAPER_ERROR_MORE = 29.29;

  private final MethodStudyConfig config;
  private final List<MethodResult> results;
  private final Map<String, Map<Double, Double>> tries;
  private final @Nullable ShapeMemory memory;
  private final MethodResult full;

  /**
   * @param results in the order of the configuration's methods
   * @param tries mean training loss by learning rate, by method; empty without a search
   */
  MethodReport(
      MethodStudyConfig config,
      List<MethodResult> results,
      Map<String, Map<Double, Double>> tries,
      @Nullable ShapeMemory memory) {
    this.config = config;
    this.results = results;
    this.tries = tries;
    this.memory = memory;
    this.full = results.get(0);
  }

  Report make() {
    Report report = new Report(config.title(), "en");
    report.paragraph(summary());
    report.heading("Beside the paper").add(paper()).paragraph(definitions());
    report.heading("Loss").add(losses());
    report.add(lines("Held-out loss against steps", Axis.of("optimizer steps", ""), true));
    report.add(lines("Held-out loss against time", Axis.of("time in steps", "s"), false));
    report.heading("Memory and time").add(memoryTable()).paragraph(contention());
    report.add(memoryByPart()).add(memoryAgainstError());
    if (memory != null) {
      shape(report, memory);
    }
    if (!tries.isEmpty()) {
      report.heading("Learning rates").paragraph(searchText()).add(searchTable());
    }
    report.heading("How it was made").paragraph(settings());
    return report;
  }

  // ---------------------------------------------------------------- figures

  private double error(double loss, MethodResult against, int step) {
    return 100 * (loss / against.loss(step) - 1);
  }

  /** At equal steps. */
  private double errorEqual(MethodResult result) {
    return error(result.loss(config.steps()), full, config.steps());
  }

  /** After more steps, against the first method after as many as the others had at first. */
  private double errorMore(MethodResult result) {
    return error(result.loss(config.moreSteps()), full, config.steps());
  }

  /** Both after more steps. */
  private double errorBothMore(MethodResult result) {
    return error(result.loss(config.moreSteps()), full, config.moreSteps());
  }

  private static double saved(long bytes, long fullBytes) {
    return 100 * (1 - (double) bytes / fullBytes);
  }

  private TrainConfig training(MethodResult result) {
    MethodSpec spec =
        config.methods().stream()
            .filter(m -> m.name().equals(result.name()))
            .findFirst()
            .orElseThrow();
    return config.trainConfig(spec, null);
  }

  /** The 4-bit method with the lowest held-out loss after more steps, or null. */
  private @Nullable MethodResult best4Bit() {
    return results.stream()
        .filter(r -> training(r).method() == TrainConfig.Method.QLORA)
        .min(Comparator.comparingDouble(r -> r.loss(config.moreSteps())))
        .orElse(null);
  }

  // ---------------------------------------------------------------- text

  private String summary() {
    StringBuilder text = new StringBuilder();
    MethodResult best = best4Bit();
    if (best != null) {
      text.append(
          String.format(
              Locale.ROOT,
              "The best 4-bit method, %s, ends after %d steps at a held-out loss of %.4f: %+.2f %% against %s after %d steps (%.4f), %+.2f %% after the same %d (%.4f).",
              best.name(),
              config.moreSteps(),
              best.loss(config.moreSteps()),
              errorMore(best),
              full.name(),
              config.steps(),
              full.loss(config.steps()),
              errorBothMore(best),
              config.moreSteps(),
              full.loss(config.moreSteps())));
    }
    ShapeMemory shape = memory;
    if (shape != null) {
      List<String> enough = new ArrayList<>();
      long fullBytes = total(shape, full.name());
      for (String name : shape.planned().keySet()) {
        if (saved(total(shape, name), fullBytes) >= PAPER_SAVED) {
          enough.add(name);
        }
      }
      text.append(
          String.format(
              Locale.ROOT,
              "\nAt the shape of %s, %s at least %.2f %% of the memory of %s: %s.",
              shape.shape().name(),
              enough.size() == 1 ? "one method saves" : enough.size() + " methods save",
              PAPER_SAVED,
              full.name(),
              enough.isEmpty() ? "none" : String.join(", ", enough)));
    }
    return text.toString().strip();
  }

  private String definitions() {
    return String.format(
        Locale.ROOT,
        "Error is how much larger a held-out loss (nats per token) is than that of %s. At equal steps both had %d. With more steps the method had %d;"
            + " %s is taken after %d, as a method that saves memory can be given more time, and beside it after %d as well."
            + " The paper trained other models on other data and another machine; its errors are of its own loss.",
        full.name(),
        config.steps(),
        config.moreSteps(),
        full.name(),
        config.steps(),
        config.moreSteps());
  }

  private String contention() {
    double most = results.stream().mapToDouble(MethodResult::othersCpus).max().orElse(Double.NaN);
    String text =
        "Peak memory is VmHWM of the method's own process. Counted memory is what the kernels' device holds; the rest is Java, libtorch, tokenizer and examples, about the same for every method."
            + " Times are of optimizer steps alone, the median of each run.";
    if (most >= OtherLoad.CROWDED) {
      text +=
          String.format(
              Locale.ROOT,
              "\nTimes are contended: other processes kept up to %.1f processors of this machine busy meanwhile.",
              most);
    }
    if (results.stream().anyMatch(MethodResult::resumed)) {
      text +=
          "\nInterrupted and resumed, so that peak memory is that of the last process: "
              + results.stream()
                  .filter(MethodResult::resumed)
                  .map(MethodResult::name)
                  .collect(Collectors.joining(", "))
              + ".";
    }
    return text;
  }

  private String searchText() {
    return String.format(
        Locale.ROOT,
        "Every method tried the same learning rates for %d steps and took the one with the lowest mean training loss over the second half of them. Held-out examples had no part in it.",
        config.searchSteps());
  }

  private String settings() {
    TrainConfig training = config.trainConfig(config.methods().get(0), null);
    return String.format(
        Locale.ROOT,
        "%s\nBase %s, examples %s, held out %s; sequences of up to %d tokens, %d x %d a step, seed %d, schedule %s.",
        Machine.description(training.device()),
        MethodStudyConfig.original(config.methods().get(0)),
        training.data().trainFiles(),
        training.data().evalFile() == null
            ? training.data().valSetSize()
            : training.data().evalFile(),
        training.data().sequenceLength(),
        training.schedule().microBatchSize(),
        training.schedule().gradientAccumulationSteps(),
        training.seed(),
        training.schedule().scheduler().name().toLowerCase(Locale.ROOT));
  }

  // ---------------------------------------------------------------- tables

  private Table paper() {
    Table.Builder table =
        new Table.Builder(
            memory == null
                ? "The paper's two figures; memory is the peak of the processes here"
                : "The paper's two figures; memory is planned at the shape of "
                    + memory.shape().name(),
            Column.text(""),
            Column.number("full FP32", "GB", 2),
            Column.number("method", "GB", 2),
            Column.number("memory saved", "%", 2),
            Column.number("error, equal steps", "%", 2),
            Column.number("error, more steps", "%", 2),
            Column.number("error, both more", "%", 2));
    table.row(
        "the paper: LoRA, FP16, FP8, INT8",
        PAPER_FULL_GB,
        PAPER_BEST_GB,
        PAPER_SAVED,
        PAPER_ERROR,
        PAPER_ERROR_MORE,
        Double.NaN);
    for (MethodResult result : results.subList(1, results.size())) {
      long fullBytes = full.peakBytes();
      long bytes = result.peakBytes();
      ShapeMemory shape = memory;
      if (shape != null) {
        fullBytes = total(shape, full.name());
        bytes = total(shape, result.name());
      }
      table.row(
          result.name(),
          fullBytes / GB,
          bytes / GB,
          saved(bytes, fullBytes),
          errorEqual(result),
          errorMore(result),
          errorBothMore(result));
    }
    return table.build();
  }

  private Table losses() {
    Table.Builder table =
        new Table.Builder(
            "Held-out loss and error",
            Column.text("method"),
            Column.number("learning rate", "", 5),
            Column.number("trained", "parameters", 0),
            Column.number("on disk", "MiB", 2),
            Column.number("loss before", "nats/token", 4),
            Column.number("loss, " + config.steps() + " steps", "nats/token", 4),
            Column.number("loss, " + config.moreSteps() + " steps", "nats/token", 4),
            Column.number("error, equal steps", "%", 2),
            Column.number("error, more steps", "%", 2),
            Column.number("error, both more", "%", 2));
    for (MethodResult r : results) {
      table.row(
          r.name(),
          r.rate(),
          r.trainedParameters(),
          r.savedBytes() / MIB,
          r.loss(0),
          r.loss(config.steps()),
          r.loss(config.moreSteps()),
          errorEqual(r),
          errorMore(r),
          errorBothMore(r));
    }
    return table.build();
  }

  private Table memoryTable() {
    Table.Builder table =
        new Table.Builder(
            "Memory and time, measured",
            Column.text("method"),
            Column.number("peak memory", "MiB", 1),
            Column.number("saved", "%", 2),
            Column.number("counted", "MiB", 1),
            Column.number("of it saved", "%", 2),
            Column.number("time a step", "ms", 1),
            Column.number("speed", "tokens/s", 0),
            Column.number("others", "CPUs", 1));
    for (MethodResult r : results) {
      table.row(
          r.name(),
          r.peakBytes() / MIB,
          saved(r.peakBytes(), full.peakBytes()),
          r.countedBytes() / MIB,
          saved(r.countedBytes(), full.countedBytes()),
          1e3 * r.stepSeconds(),
          r.tokensPerSecond(),
          r.othersCpus());
    }
    return table.build();
  }

  private Table searchTable() {
    List<Column> columns = new ArrayList<>(List.of(Column.text("method")));
    config.rates().forEach(r -> columns.add(Column.number(String.valueOf(r), "nats/token", 4)));
    columns.add(Column.number("chosen", "", 5));
    Table.Builder table =
        new Table.Builder("Mean training loss by learning rate", columns.toArray(new Column[0]));
    for (MethodResult result : results) {
      List<Object> row = new ArrayList<>(List.of(result.name()));
      Map<Double, Double> losses = tries.getOrDefault(result.name(), Map.of());
      config
          .rates()
          .forEach(
              r -> {
                double loss = losses.getOrDefault(r, Double.NaN);
                row.add(Double.isInfinite(loss) ? Double.NaN : loss);
              });
      row.add(result.rate());
      table.row(row.toArray());
    }
    return table.build();
  }

  // ---------------------------------------------------------------- charts

  private LineChart lines(String title, Axis x, boolean steps) {
    List<Series> series = new ArrayList<>();
    for (MethodResult result : results) {
      List<MethodResult.Point> curve = result.curve();
      series.add(
          new Series(
              result.name(),
              curve.stream().mapToDouble(p -> steps ? p.step() : p.seconds()).toArray(),
              curve.stream().mapToDouble(MethodResult.Point::loss).toArray()));
    }
    return new LineChart(title, x, Axis.of("held-out loss", "nats per token"), series);
  }

  private BarChart memoryByPart() {
    Map<String, List<Double>> parts = new LinkedHashMap<>();
    full.parts().keySet().forEach(part -> parts.put(part, new ArrayList<>()));
    for (MethodResult result : results) {
      result
          .parts()
          .forEach((part, bytes) -> parts.getOrDefault(part, new ArrayList<>()).add(bytes / MIB));
    }
    return BarChart.stacked(
        "Counted memory by part, measured", Axis.fromZero("memory", "MiB"), names(), parts);
  }

  private List<String> names() {
    return results.stream().map(MethodResult::name).toList();
  }

  private ScatterChart memoryAgainstError() {
    List<ScatterChart.Point> points = new ArrayList<>();
    for (MethodResult result : results) {
      points.add(
          new ScatterChart.Point(result.name(), result.countedBytes() / MIB, errorMore(result)));
    }
    return new ScatterChart(
        "Counted memory against error with more steps",
        Axis.of("counted memory", "MiB"),
        Axis.of("error against " + full.name(), "%"),
        points);
  }

  // ---------------------------------------------------------------- memory at a shape

  private static long total(ShapeMemory memory, String name) {
    ShapeMemory.Planned planned = memory.planned().get(name);
    return planned == null ? 0 : planned.total();
  }

  private void shape(Report report, ShapeMemory memory) {
    MethodStudyConfig.Shape shape = memory.shape();
    report.heading("Memory at the shape of " + shape.name());
    report.paragraph(
        String.format(
            Locale.ROOT,
            "A micro-batch is %d x %d tokens. Planned: the training's own code counts what it would allocate, as the command plan does."
                + " Measured: VmHWM of a process that trained two steps on random weights of this shape.",
            shape.batch(),
            shape.sequence()));
    Table.Builder table =
        new Table.Builder(
            "Memory at the shape of " + shape.name(),
            Column.text("method"),
            Column.number("planned", "GB", 3),
            Column.number("saved, planned", "%", 2),
            Column.text("at least " + PAPER_SAVED + " %"),
            Column.number("measured", "GB", 3),
            Column.number("measured / planned", "", 3),
            Column.number("time a step", "s", 2));
    long fullBytes = total(memory, full.name());
    for (String name : memory.planned().keySet()) {
      ShapeMeasurement.Used measured = memory.measured().get(name);
      double saved = saved(total(memory, name), fullBytes);
      table.row(
          name,
          total(memory, name) / GB,
          saved,
          saved >= PAPER_SAVED ? "yes" : "no",
          measured == null ? Double.NaN : measured.peakBytes() / GB,
          measured == null ? Double.NaN : (double) measured.peakBytes() / measured.plannedBytes(),
          measured == null ? Double.NaN : measured.secondsPerStep());
    }
    report.add(table.build());
    Map<String, List<Double>> parts = new LinkedHashMap<>();
    memory
        .planned()
        .values()
        .forEach(
            planned ->
                planned
                    .parts()
                    .forEach(
                        (part, bytes) ->
                            parts.computeIfAbsent(part, p -> new ArrayList<>()).add(bytes / GB)));
    report.add(
        BarChart.stacked(
            "Memory at the shape of " + shape.name() + " by part, planned",
            Axis.fromZero("memory", "GB"),
            List.copyOf(memory.planned().keySet()),
            parts));
  }
}
