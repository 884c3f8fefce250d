// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.tensor.ComputeDevice;
import org.qlora4j.train.MemoryPlan;
import org.qlora4j.train.OptimizerMemory;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfigKeys;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j train CONFIG.yaml}. */
@Command(
    name = "train",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Tunes a model as a YAML file says: full, lora or qlora.",
      "Paths in the file are relative to the working directory."
    })
final class TrainCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      arity = "0..1",
      paramLabel = "CONFIG.yaml",
      description = "The training configuration; see --help-keys.")
  private @Nullable Path config;

  @Option(
      names = "--set",
      paramLabel = "KEY=VALUE",
      description =
          "Changes a key of the configuration; may be given several times. Lists are written [a, b].")
  private List<String> overrides = new ArrayList<>();

  @Option(
      names = "--resume",
      description =
          "Goes on from the newest checkpoint below output_dir, or starts where there is none.")
  private boolean resume;

  @Mixin private JsonOption json = new JsonOption();

  @Option(
      names = "--help-keys",
      description = "Lists every key of a configuration with its default, and exits.")
  private boolean helpKeys;

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  TrainCommand() {}

  @Override
  public Integer call() {
    PrintWriter out = spec.commandLine().getOut();
    if (helpKeys) {
      keys().forEach(out::println);
      return Main.DONE;
    }
    if (config == null) {
      throw new InputException(
          "expected a configuration, found none; see " + spec.qualifiedName() + " --help");
    }
    List<String> settings = new ArrayList<>(overrides);
    if (pack.device() != null) {
      settings.add("device=" + pack.device().key());
    }
    TrainConfig trainConfig = TrainConfigReader.read(config, settings);
    pack.choosePack();
    TrainingSummary summary;
    try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      summary = TrainingRun.run(trainConfig, resume, progress);
    }
    print(trainConfig, summary, out);
    json.write(figures(trainConfig, summary));
    return Main.DONE;
  }

  private static List<String> keys() {
    List<String> lines = new ArrayList<>();
    for (TrainConfigKeys.Key key : TrainConfigKeys.ALL) {
      lines.add(key.name() + (key.defaultText().isEmpty() ? "" : ": " + key.defaultText()));
      lines.add("    " + key.meaning());
      if (!key.aliases().isEmpty()) {
        lines.add("    also: " + String.join(", ", key.aliases()));
      }
    }
    return lines;
  }

  private static void print(TrainConfig config, TrainingSummary summary, PrintWriter out) {
    for (TrainingSummary.Sample sample : summary.samples()) {
      out.println();
      out.println("prompt: " + Text.oneLine(sample.prompt()));
      if (!sample.before().isEmpty()) {
        out.println("before: " + Text.oneLine(sample.before().strip()));
      }
      out.println("after:  " + Text.oneLine(sample.after().strip()));
    }
    out.println();
    List<List<String>> rows = new ArrayList<>();
    rows.add(
        List.of(
            "trained",
            String.format(
                Locale.ROOT,
                "%,d parameters on %,d, %,d steps",
                summary.trainedParameters(),
                summary.totalParameters(),
                summary.steps())));
    if (Double.isFinite(summary.initialEvalLoss())) {
      rows.add(
          List.of(
              "held-out loss",
              String.format(
                  Locale.ROOT,
                  "%.4f before, %.4f after",
                  summary.initialEvalLoss(),
                  summary.finalEvalLoss())));
    }
    if (Double.isFinite(summary.finalTrainLoss())) {
      rows.add(
          List.of(
              "training loss",
              String.format(Locale.ROOT, "%.4f at the last step", summary.finalTrainLoss())));
    }
    if (Double.isFinite(summary.tokensPerSecond())) {
      rows.add(
          List.of(
              "time",
              String.format(
                  Locale.ROOT,
                  "%s, %,.0f tokens/s",
                  Text.duration(summary.trainedSeconds()),
                  summary.tokensPerSecond())));
    }
    OptimizerMemory states = summary.optimizer();
    if (states.paged()) {
      rows.add(
          List.of(
              "optimizer",
              String.format(
                  Locale.ROOT,
                  "%s of states, %s of them resident; pages fetched %s, written back %s",
                  Text.bytes(states.totalBytes()),
                  Text.bytes(states.held().residentBytes()),
                  Text.bytes(states.held().bytesIn()),
                  Text.bytes(states.held().bytesOut()))));
    }
    rows.add(List.of("result", summary.output().toString()));
    for (List<String> row : rows) {
      out.printf(Locale.ROOT, "%-14s %s%n", row.get(0), row.get(1));
    }
    out.println();
    memory(summary).forEach(out::println);
    out.println();
    out.println("generate with it:");
    out.println("  " + generateCommand(config, summary));
  }

  /** Each part as it was planned and as it was. */
  private static List<String> memory(TrainingSummary summary) {
    MemoryPlan plan = summary.plan();
    TrainingSummary.Memory used = summary.memory();
    List<List<String>> rows = new ArrayList<>();
    rows.add(List.of("memory", "planned", "used"));
    rows.add(row("weights", plan.weights(), used.weights()));
    rows.add(row("adapters", plan.adapters(), used.adapters()));
    rows.add(row("gradients", plan.gradients(), used.gradients()));
    rows.add(row("optimizer states", plan.optimizerStates(), used.optimizerStates()));
    rows.add(row("activations", plan.activations(), used.activations()));
    rows.add(row("kernels' workspace", plan.workspace(), used.workspace()));
    rows.add(
        row(
            "all else",
            plan.process() + plan.extra(),
            Math.max(0, summary.peakBytes() - used.total())));
    rows.add(row("peak memory", plan.total(), summary.peakBytes()));
    return Report.table(rows);
  }

  private static List<String> row(String name, long planned, long used) {
    return List.of(name, Text.bytes(planned), Text.bytes(used));
  }

  /** Without what {@code generate} finds in the adapter's directory. */
  private static String generateCommand(TrainConfig config, TrainingSummary summary) {
    StringBuilder command = new StringBuilder("./qlora4j generate ");
    if (config.method().adapter()) {
      command.append(shell(config.model().toString())).append(" --adapter ");
    }
    command.append(shell(summary.output().toString()));
    if (config.compute() == TrainConfig.Compute.FLOAT32) {
      command.append(" --compute float32");
    }
    if (config.device() != ComputeDevice.AUTO) {
      command.append(" --device ").append(config.device().key());
    }
    TrainConfig.Samples samples = config.samples();
    if (samples.temperature() > 0) {
      command.append(" --temperature ").append(samples.temperature());
      if (samples.topK() > 0) {
        command.append(" --top-k ").append(samples.topK());
      }
      if (samples.topP() < 1) {
        command.append(" --top-p ").append(samples.topP());
      }
    }
    if (samples.repetitionPenalty() != 1) {
      command.append(" --repetition-penalty ").append(samples.repetitionPenalty());
    }
    String prompt = samples.prompts().isEmpty() ? "..." : samples.prompts().get(0);
    return command
        .append(summary.chat() ? " --message " : " --prompt ")
        .append(shell(prompt))
        .toString();
  }

  /** A word as a shell reads it back. */
  private static String shell(String word) {
    return word.matches("[A-Za-z0-9_./:=@%+-]+") ? word : "'" + word.replace("'", "'\\''") + "'";
  }

  private static ObjectNode figures(TrainConfig config, TrainingSummary summary) {
    ObjectNode node = Json.newObject();
    node.put("method", config.method().name().toLowerCase(Locale.ROOT));
    node.put("output", summary.output().toString());
    node.put("steps", summary.steps());
    node.put("trained_parameters", summary.trainedParameters());
    node.put("total_parameters", summary.totalParameters());
    Report.put(node, "initial_eval_loss", summary.initialEvalLoss());
    Report.put(node, "final_eval_loss", summary.finalEvalLoss());
    Report.put(node, "final_train_loss", summary.finalTrainLoss());
    Report.put(node, "trained_seconds", summary.trainedSeconds());
    Report.put(node, "tokens_per_s", summary.tokensPerSecond());
    node.put("peak_bytes", summary.peakBytes());
    ObjectNode memory = node.putObject("memory_bytes");
    memory.put("weights", summary.memory().weights());
    memory.put("adapters", summary.memory().adapters());
    memory.put("gradients", summary.memory().gradients());
    memory.put("optimizer_states", summary.memory().optimizerStates());
    memory.put("activations", summary.memory().activations());
    OptimizerMemory states = summary.optimizer();
    ObjectNode optimizer = node.putObject("optimizer");
    optimizer.put("state_bytes", states.totalBytes());
    optimizer.put("resident_bytes", states.held().residentBytes());
    optimizer.put("bytes_in", states.held().bytesIn());
    optimizer.put("bytes_out", states.held().bytesOut());
    optimizer.put("page_misses", states.held().misses());
    memory.put("workspace", summary.memory().workspace());
    ObjectNode planned = node.putObject("planned_bytes");
    summary.plan().parts().forEach(part -> planned.put(part.key(), part.bytes()));
    node.put("planned_peak_bytes", summary.plan().total());
    var samples = node.putArray("samples");
    for (TrainingSummary.Sample sample : summary.samples()) {
      ObjectNode one = samples.addObject();
      one.put("prompt", sample.prompt());
      one.put("before", sample.before());
      one.put("after", sample.after());
    }
    return node;
  }
}
