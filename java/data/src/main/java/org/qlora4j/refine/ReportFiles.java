// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * Writes a report as JSON and as Markdown beside the examples: posts.jsonl, posts.report.json,
 * posts.report.md.
 */
final class ReportFiles {
  private final RefineConfig config;
  private final RefineReport report;
  private final @Nullable ObjectNode model;

  /**
   * @param model what the sentiment model says of itself
   */
  ReportFiles(RefineConfig config, RefineReport report, @Nullable ObjectNode model) {
    this.config = config;
    this.report = report;
    this.model = model;
  }

  /** Where a report goes. */
  static Path beside(Path training, String suffix) {
    String name = String.valueOf(training.getFileName());
    int dot = name.lastIndexOf('.');
    return training.resolveSibling((dot > 0 ? name.substring(0, dot) : name) + suffix);
  }

  void write() {
    Path training = config.output().training();
    AtomicOutput.write(
        beside(training, ".report.json"), Json.pretty(json()).getBytes(StandardCharsets.UTF_8));
    AtomicOutput.write(beside(training, ".report.md"), markdown().getBytes(StandardCharsets.UTF_8));
  }

  private ObjectNode json() {
    ObjectNode node = Json.newObject();
    ArrayNode input = node.putArray("input");
    config.input().files().forEach(file -> input.add(file.toString()));
    node.put("output", config.output().training().toString());
    Path heldOut = config.output().heldOut();
    if (heldOut != null) {
      node.put("held_out", heldOut.toString());
    }
    node.put("rows", report.rows());
    node.put("kept_training", report.training());
    node.put("kept_held_out", report.heldOut());
    ObjectNode drops = node.putObject("dropped");
    report.drops().forEach((reason, count) -> drops.put(reason.key(), count));
    ObjectNode samples = node.putObject("samples");
    report
        .samples()
        .forEach(
            (reason, rows) -> {
              ArrayNode list = samples.putArray(reason.key());
              for (RefineReport.Sample row : rows) {
                ObjectNode one = list.addObject();
                one.put("source", row.source());
                one.put("detail", row.detail());
                one.put("text", row.text());
              }
            });
    ObjectNode cleaning = node.putObject("cleaning");
    report
        .steps()
        .forEach(
            (step, count) -> {
              ObjectNode one = cleaning.putObject(step.key());
              one.put("posts", count.posts());
              one.put("found", count.found());
            });
    ObjectNode words = node.putObject("words");
    words.put("least", report.words().least());
    words.put("mean", report.words().mean());
    words.put("most", report.words().most());
    if (!report.positive().isEmpty()) {
      ArrayNode positive = node.putArray("examples_by_positive_tenth");
      report.positive().forEach(positive::add);
      node.put("min_positive", config.filters().minPositive());
    }
    if (model != null) {
      node.set("sentiment_model", model);
    }
    node.put("seconds", report.seconds());
    node.put("rows_per_s", report.rows() / report.seconds());
    node.put("peak_bytes", report.peakBytes());
    return node;
  }

  private String markdown() {
    StringBuilder out = new StringBuilder("# Refined posts\n\n");
    out.append("| | rows | share |\n|---|---:|---:|\n");
    row(out, "read", report.rows());
    row(out, "kept for training", report.training());
    if (config.output().heldOut() != null) {
      row(out, "held out", report.heldOut());
    }
    row(out, "dropped", report.rows() - report.kept());
    out.append("\n## Dropped\n\n| reason | rule | rows | share |\n|---|---|---:|---:|\n");
    report
        .drops()
        .forEach(
            (reason, count) ->
                out.append("| ")
                    .append(reason.key())
                    .append(" | ")
                    .append(reason.rule())
                    .append(" | ")
                    .append(count(count))
                    .append(" | ")
                    .append(share(count))
                    .append(" |\n"));
    out.append("\n## Cleaned\n\n| step | what went | posts | found |\n|---|---|---:|---:|\n");
    for (Map.Entry<CleaningStep, RefineReport.Step> step : report.steps().entrySet()) {
      out.append("| ")
          .append(step.getKey().key())
          .append(" | ")
          .append(step.getKey().what())
          .append(" | ")
          .append(count(step.getValue().posts()))
          .append(" | ")
          .append(count(step.getValue().found()))
          .append(" |\n");
    }
    out.append(
        String.format(
            Locale.ROOT,
            "%n## Examples%n%n%d to %d words, %.1f on average.%n",
            report.words().least(),
            report.words().most(),
            report.words().mean()));
    if (!report.positive().isEmpty()) {
      out.append("\n| probability of being positive | examples |\n|---|---:|\n");
      for (int i = 0; i < report.positive().size(); i++) {
        out.append(
            String.format(
                Locale.ROOT,
                "| %.1f to %.1f | %,d |%n",
                i / 10.0,
                (i + 1) / 10.0,
                report.positive().get(i)));
      }
    }
    out.append("\n## Samples of what was dropped\n");
    for (Map.Entry<DropReason, List<RefineReport.Sample>> entry : report.samples().entrySet()) {
      if (!entry.getValue().isEmpty()) {
        out.append("\n### ").append(entry.getKey().key()).append("\n\n");
        for (RefineReport.Sample sample : entry.getValue()) {
          out.append("- `").append(sample.source()).append("`");
          if (!sample.detail().isEmpty()) {
            out.append(" (").append(escaped(sample.detail())).append(")");
          }
          out.append(": ").append(escaped(sample.text())).append("\n");
        }
      }
    }
    out.append(
        String.format(
            Locale.ROOT,
            "%nTook %s, %,.0f rows/s; peak memory %s.%n",
            Text.duration(report.seconds()),
            report.rows() / report.seconds(),
            Text.bytes(report.peakBytes())));
    return out.toString();
  }

  private void row(StringBuilder out, String name, long rows) {
    out.append("| ")
        .append(name)
        .append(" | ")
        .append(count(rows))
        .append(" | ")
        .append(share(rows))
        .append(" |\n");
  }

  private static String count(long count) {
    return String.format(Locale.ROOT, "%,d", count);
  }

  private String share(long count) {
    return String.format(Locale.ROOT, "%.1f%%", 100.0 * count / report.rows());
  }

  /** Text of strangers: no markup of it may work. */
  private static String escaped(String text) {
    return Text.oneLine(text).replaceAll("([\\\\`*_{}\\[\\]<>#|~!])", "\\\\$1");
  }
}
