// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.generation;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.refine.DropReason;
import org.qlora4j.refine.RefineReport;
import org.qlora4j.report.Axis;
import org.qlora4j.report.BarChart;
import org.qlora4j.report.Column;
import org.qlora4j.report.Histogram;
import org.qlora4j.report.Report;
import org.qlora4j.report.SampleTexts;
import org.qlora4j.report.Table;
import org.qlora4j.study.Bootstrap;
import org.qlora4j.study.Bootstrap.Interval;
import org.qlora4j.study.Machine;
import org.qlora4j.study.OtherLoad;
import org.qlora4j.study.ShapeMeasurement;
import org.qlora4j.train.TrainConfig;

/** The study's report. */
final class GenerationReport {
  private static final double GIB = 1 << 30;
  private static final double PERCENT = 100;
  private static final int RESAMPLES = 10_000;
  private static final double LEVEL = 0.95;

  // The paper's figures: KoAlpaca/Polyglot-Ko 12.8B tuned by QLoRA, 100 unseen inputs.
  private static final double PAPER_RATIO = 2;
  private static final double PAPER_SAVED = 58.8;

  /** No model can write twice as many positive texts as one of which more than half are. */
  private static final double ENOUGH_POSITIVE = 0.9;

  private final GenerationStudyConfig config;
  private final TrainConfig training;
  private final List<String> prompts;
  private final WrittenTexts base;
  private final WrittenTexts tuned;
  private final ObjectNode trained;
  private final @Nullable RefineReport refined;
  private final @Nullable ObjectNode memory;
  private final Map<String, ShapeMeasurement.Used> measured;

  GenerationReport(
      GenerationStudyConfig config,
      TrainConfig training,
      List<String> prompts,
      WrittenTexts base,
      WrittenTexts tuned,
      ObjectNode trained,
      @Nullable RefineReport refined,
      @Nullable ObjectNode memory,
      Map<String, ShapeMeasurement.Used> measured) {
    this.config = config;
    this.training = training;
    this.prompts = prompts;
    this.base = base;
    this.tuned = tuned;
    this.trained = trained;
    this.refined = refined;
    this.memory = memory;
    this.measured = measured;
  }

  Report make() {
    Report report = new Report(config.title(), "en");
    report.paragraph(summary());
    report.heading("Beside the paper").add(paper()).paragraph(differences());
    report.heading("Base against tuned").add(figures()).paragraph(definitions());
    report.add(
        new Histogram(
            "Words of a text",
            Axis.fromZero("words", ""),
            List.of(sample(base.name(), base.words()), sample(tuned.name(), tuned.words())),
            15));
    report.add(
        new Histogram(
            "Probability of a text to be positive",
            Axis.fromZero("probability", ""),
            List.of(sample(base.name(), base.positive()), sample(tuned.name(), tuned.positive())),
            10));
    report.add(
        BarChart.grouped(
            "Positive texts and texts that the model ended itself",
            Axis.fromZero("share of texts", "%"),
            List.of("positive", "ended"),
            List.of(shares(base), shares(tuned))));
    if (config.samples() > 0) {
      report.heading("Texts").add(texts());
    }
    ObjectNode plans = memory;
    GenerationStudyConfig.Shape shape = config.shape();
    if (plans != null && shape != null) {
      memory(report, shape, plans);
    }
    RefineReport refinement = refined;
    if (refinement != null) {
      report.heading("The collection").add(drops(refinement));
    }
    report.heading("How it was made").paragraph(settings());
    return report;
  }

  // ---------------------------------------------------------------- figures

  private static double mean(double[] values) {
    return Arrays.stream(values).average().orElse(Double.NaN);
  }

  private double wordRatio() {
    return mean(tuned.words()) / mean(base.words());
  }

  private double positiveShare(WrittenTexts of) {
    return mean(of.isPositive(config.threshold()));
  }

  private double positiveGoal() {
    return Math.min(PAPER_RATIO * positiveShare(base), ENOUGH_POSITIVE);
  }

  private static long most(double[] values) {
    return (long) Arrays.stream(values).max().orElse(0);
  }

  private static long total(JsonNode parts) {
    long sum = 0;
    for (JsonNode part : parts) {
      sum += part.asLong();
    }
    return sum;
  }

  private double saved() {
    ObjectNode plans = memory;
    return plans == null
        ? Double.NaN
        : PERCENT * (1 - (double) total(plans.path("qlora")) / total(plans.path("lora")));
  }

  // ---------------------------------------------------------------- text

  private String summary() {
    return String.format(
        Locale.ROOT,
        "On %d prompts that training never saw, the tuned model writes %.1f words a text where the base writes %.1f (%.2f times as many), and %.0f %% of its texts are positive where %.0f %% of the base's are."
            + " The longest run of words that it shares with a training example has %d (%s %d).",
        prompts.size(),
        mean(tuned.words()),
        mean(base.words()),
        wordRatio(),
        PERCENT * positiveShare(tuned),
        PERCENT * positiveShare(base),
        most(tuned.copied()),
        most(tuned.copied()) <= config.copyWords() ? "allowed are" : "more than the allowed",
        config.copyWords());
  }

  private Table paper() {
    Table.Builder table =
        new Table.Builder(
            "The paper's result and this one",
            Column.text(""),
            Column.text("the paper"),
            Column.text("wanted here"),
            Column.text("here"),
            Column.text("reached"));
    row(
        table,
        "words of the tuned over those of the base",
        "over 2",
        "2.00",
        String.format(Locale.ROOT, "%.2f", wordRatio()),
        wordRatio() >= PAPER_RATIO);
    row(
        table,
        "positive texts of the tuned",
        "over twice the base's",
        String.format(Locale.ROOT, "%.0f %%", PERCENT * positiveGoal()),
        String.format(
            Locale.ROOT,
            "%.0f %%, the base has %.0f %%",
            PERCENT * positiveShare(tuned),
            PERCENT * positiveShare(base)),
        positiveShare(tuned) >= positiveGoal());
    row(
        table,
        "longest run of words copied from training",
        "not given",
        "at most " + config.copyWords(),
        Long.toString(most(tuned.copied())),
        most(tuned.copied()) <= config.copyWords());
    if (memory != null) {
      row(
          table,
          "memory that QLoRA saves against LoRA, planned",
          PAPER_SAVED + " %",
          PAPER_SAVED + " %",
          String.format(Locale.ROOT, "%.1f %%", saved()),
          saved() >= PAPER_SAVED);
    }
    return table.build();
  }

  private static void row(
      Table.Builder table, String what, String paper, String wanted, String here, boolean reached) {
    table.row(what, paper, wanted, here, reached ? "yes" : "no");
  }

  private String differences() {
    return String.format(
        Locale.ROOT,
        "The paper tuned KoAlpaca/Polyglot-Ko with 12.8 billion parameters on reviews collected from blogs. Here the base has %,d parameters; the same command with another model and collection does what the paper did."
            + " More than twice the positive texts is not possible where the base writes more than half of them positive, so the smaller of twice the base's share and %.0f %% is wanted.",
        trained.path("total_parameters").asLong(),
        PERCENT * ENOUGH_POSITIVE);
  }

  private String definitions() {
    return String.format(
        Locale.ROOT,
        "Both models are the base with its weights in %s, one with the adapter. A word is what stands between spaces. A text is positive from a probability of %.2f on, by the sentiment model %s; the threshold was fixed before."
            + " Distinct-n: different runs of n words among all runs of n words of all texts; longer texts have lower values. Repetition: share of a text's runs of three words that it had before."
            + " Perplexity is of the held-out examples, per token. Intervals hold the middle 95 %% of %,d paired bootstrap samples over prompts.",
        training.quantization().type().name(),
        config.threshold(),
        config.sentimentModel(),
        RESAMPLES);
  }

  private String settings() {
    StringBuilder text = new StringBuilder();
    text.append(Machine.description(training.device()));
    text.append(
        String.format(
            Locale.ROOT,
            "%nBase %s; examples %s; prompts %s, the first %d. QLoRA, rank %d, %,d parameters trained, %d steps in %.0f s (%,.0f tokens/s), peak memory of the process %.0f MiB; seed %d."
                + " Texts: at most %d tokens, temperature %s, top-p %s, repetition penalty %s, seed %d.",
            training.model(),
            training.data().trainFiles(),
            config.prompts(),
            prompts.size(),
            training.lora().rank(),
            trained.path("trained_parameters").asLong(),
            trained.path("steps").asInt(),
            trained.path("seconds").asDouble(),
            trained.path("tokens_per_s").asDouble(),
            trained.path("peak_bytes").asLong() / (double) (1 << 20),
            training.seed(),
            config.generation().path("max_new_tokens").asInt(),
            config.generation().path("temperature").asText(),
            config.generation().path("top_p").asText(),
            config.generation().path("repetition_penalty").asText(),
            config.generation().path("seed").asInt()));
    double others =
        Math.max(
            trained.path("others_cpus").asDouble(),
            Math.max(base.othersCpus(), tuned.othersCpus()));
    if (others >= OtherLoad.CROWDED) {
      text.append(
          String.format(
              Locale.ROOT,
              "%nTimes are contended: other processes kept up to %.1f processors busy meanwhile.",
              others));
    }
    return text.toString();
  }

  // ---------------------------------------------------------------- tables

  private Table figures() {
    Table.Builder table =
        new Table.Builder(
            "Base against tuned",
            Column.text(""),
            Column.number("base", "", 3),
            Column.number("tuned", "", 3),
            Column.number("tuned - base", "", 3),
            Column.number("from", "95 %", 3),
            Column.number("to", "95 %", 3),
            Column.number("tuned / base", "", 3),
            Column.number("from", "95 % ", 3),
            Column.number("to", "95 % ", 3));
    paired(table, "words", base.words(), tuned.words());
    paired(table, "characters", base.characters(), tuned.characters());
    paired(table, "tokens", base.tokens(), tuned.tokens());
    paired(
        table,
        "share of positive texts",
        base.isPositive(config.threshold()),
        tuned.isPositive(config.threshold()));
    paired(table, "probability of being positive", base.positive(), tuned.positive());
    paired(table, "repetition", base.repetition(), tuned.repetition());
    paired(table, "longest run copied from training, words", base.copied(), tuned.copied());
    paired(table, "time a text, s", base.seconds(), tuned.seconds());
    for (int n : new int[] {1, 2, 3}) {
      unpaired(table, "distinct-" + n, base.distinct(n), tuned.distinct(n));
    }
    unpaired(table, "texts that the model ended itself, share", base.stopped(), tuned.stopped());
    unpaired(table, "perplexity of held-out examples", base.perplexity(), tuned.perplexity());
    return table.build();
  }

  private void paired(Table.Builder table, String name, double[] before, double[] after) {
    Interval difference =
        Bootstrap.pairedMeanDifference(before, after, RESAMPLES, LEVEL, config.seed());
    Interval ratio = Bootstrap.pairedRatio(before, after, RESAMPLES, LEVEL, config.seed());
    table.row(
        name,
        mean(before),
        mean(after),
        difference.estimate(),
        difference.low(),
        difference.high(),
        ratio.estimate(),
        ratio.low(),
        ratio.high());
  }

  /** A figure of all texts together, which has no interval. */
  private static void unpaired(Table.Builder table, String name, double before, double after) {
    table.row(
        name,
        before,
        after,
        after - before,
        Double.NaN,
        Double.NaN,
        after / before,
        Double.NaN,
        Double.NaN);
  }

  private static Histogram.Sample sample(String name, double[] values) {
    return new Histogram.Sample(name, Arrays.stream(values).boxed().toList());
  }

  private BarChart.Part shares(WrittenTexts of) {
    return new BarChart.Part(
        of.name(), List.of(PERCENT * positiveShare(of), PERCENT * of.stopped()));
  }

  private SampleTexts texts() {
    SampleTexts.Builder texts =
        new SampleTexts.Builder(
            "The first prompts and what the models wrote; not chosen",
            config.language(),
            base.name(),
            tuned.name());
    for (int i = 0; i < Math.min(config.samples(), prompts.size()); i++) {
      texts.row(prompts.get(i), base.texts().get(i).text(), tuned.texts().get(i).text());
    }
    return texts.build();
  }

  private void memory(Report report, GenerationStudyConfig.Shape shape, ObjectNode plans) {
    report.heading("Memory at the shape of " + shape.name());
    report.paragraph(
        String.format(
            Locale.ROOT,
            "%d sequences of %d tokens a micro-batch, same rank and optimizer on both sides. Planned: the training's own code counts what it would allocate, as the command plan does."
                + " Measured: VmHWM of a process that trained two steps on random weights of this shape; empty where nothing was measured.",
            shape.batch(),
            shape.sequence()));
    Table.Builder table =
        new Table.Builder(
            "Memory at the shape of " + shape.name(),
            Column.text("method"),
            Column.number("planned", "GiB", 2),
            Column.number("saved, planned", "%", 1),
            Column.number("measured", "GiB", 2),
            Column.number("measured / planned", "", 3),
            Column.number("time a step", "s", 1));
    Map<String, List<Double>> parts = new LinkedHashMap<>();
    for (String method : GenerationStudyConfig.METHODS) {
      JsonNode plan = plans.path(method);
      ShapeMeasurement.Used used = measured.get(method);
      table.row(
          method,
          total(plan) / GIB,
          PERCENT * (1 - (double) total(plan) / total(plans.path("lora"))),
          used == null ? Double.NaN : used.peakBytes() / GIB,
          used == null ? Double.NaN : (double) used.peakBytes() / used.plannedBytes(),
          used == null ? Double.NaN : used.secondsPerStep());
      plan.properties()
          .forEach(
              part ->
                  parts
                      .computeIfAbsent(part.getKey(), p -> new ArrayList<>())
                      .add(part.getValue().asLong() / GIB));
    }
    report.add(table.build());
    report.add(
        BarChart.stacked(
            "Memory at the shape of " + shape.name() + " by part, planned",
            Axis.fromZero("memory", "GiB"),
            GenerationStudyConfig.METHODS,
            parts));
  }

  private static Table drops(RefineReport refined) {
    Table.Builder table =
        new Table.Builder(
            "What became of the collected posts",
            Column.text(""),
            Column.number("posts", "", 0),
            Column.number("share", "%", 1));
    double rows = Math.max(1, refined.rows());
    table.row("collected", refined.rows(), PERCENT * refined.rows() / rows);
    for (Map.Entry<DropReason, Long> drop : refined.drops().entrySet()) {
      if (drop.getValue() > 0) {
        table.row(
            "dropped: " + drop.getKey().key().replace('_', ' '),
            drop.getValue(),
            PERCENT * drop.getValue() / rows);
      }
    }
    table.row("kept", refined.kept(), PERCENT * refined.kept() / rows);
    return table.build();
  }
}
