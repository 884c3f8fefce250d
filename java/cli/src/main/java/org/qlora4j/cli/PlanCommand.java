// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.ByteSize;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MachineMemory;
import org.qlora4j.common.Text;
import org.qlora4j.model.CheckpointSave;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.train.MemoryPlan;
import org.qlora4j.train.MemoryPlanner;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfig.Method;
import org.qlora4j.train.TrainConfigReader;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j plan CONFIG.yaml} or {@code qlora4j plan --model DIR}. */
@Command(
    name = "plan",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Shows the memory a training will take, part by part, for each method, and what fits.",
      "The training's own code counts it; no weight is read and no step is run."
    })
final class PlanCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      arity = "0..1",
      paramLabel = "CONFIG.yaml",
      description = "The training configuration.")
  private @Nullable Path config;

  @Option(
      names = "--model",
      paramLabel = "DIR|CONFIG.json",
      description =
          "A model directory or a config.json instead of a configuration, or in its place.")
  private @Nullable Path model;

  @Option(
      names = "--set",
      paramLabel = "KEY=VALUE",
      description = "Changes a key of the configuration; may be given several times.")
  private List<String> overrides = new ArrayList<>();

  @Option(
      names = "--method",
      paramLabel = "NAME",
      description = "full, lora or qlora: the same as --set method=NAME.")
  private @Nullable String method;

  @Option(
      names = "--sequence",
      paramLabel = "N",
      description = "Tokens of a sequence: the same as --set sequence_length=N.")
  private @Nullable Integer sequence;

  @Option(
      names = "--batch",
      paramLabel = "N",
      description = "Sequences of a micro-batch: the same as --set per_device_train_batch_size=N.")
  private @Nullable Integer batch;

  @Option(
      names = "--rank",
      paramLabel = "N",
      description = "Rank of the adapter: the same as --set lora_r=N.")
  private @Nullable Integer rank;

  @Option(
      names = "--memory",
      paramLabel = "SIZE",
      description =
          "Memory to fit, such as 24GB (default: what this machine or the control group has).")
  private @Nullable String memory;

  @Mixin private JsonOption json = new JsonOption();

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  PlanCommand() {}

  @Override
  public Integer call() {
    TrainConfig run = configuration();
    Path shape = model == null ? run.model() : model;
    ModelConfig modelConfig =
        Files.isRegularFile(shape) ? ModelConfig.readFile(shape) : ModelConfig.read(shape);
    run.lora()
        .config()
        .targets()
        .select(WeightNames.of(modelConfig).linears(), WeightNames.Module::path);
    int tokens = Math.min(run.data().sequenceLength(), modelConfig.maxPositions());
    int sequences = run.schedule().microBatchSize();
    MachineMemory available =
        memory != null
            ? new MachineMemory(ByteSize.parse("--memory", memory), "--memory")
            : run.memory().limit() > 0
                ? new MachineMemory(run.memory().limit(), "memory_limit")
                : MachineMemory.now();
    pack.choosePack();
    boolean weights = ModelCheckpoint.exists(shape) && run.init() == TrainConfig.Init.CHECKPOINT;
    Map<String, MemoryPlan> plans = new LinkedHashMap<>();
    Map<String, int[]> largest = new LinkedHashMap<>();
    String description;
    try (ModelCheckpoint checkpoint = weights ? ModelCheckpoint.open(shape) : null;
        MemoryPlanner planner =
            MemoryPlanner.open(
                run, modelConfig, checkpoint, MemoryPlanner.TOKENIZER_AND_EXAMPLES)) {
      description = planner.pack().description();
      for (Map.Entry<String, TrainConfig> column : columns(run).entrySet()) {
        String each = column.getKey();
        TrainConfig one = column.getValue();
        if (!planner.trains(one.method())) {
          continue;
        }
        plans.put(each, planner.plan(one, tokens, sequences));
        long limit = available.bytes();
        largest.put(
            each,
            new int[] {
              planner.largestBatch(one, tokens, MOST_SEQUENCES, limit),
              planner.longestSequence(one, sequences, modelConfig.maxPositions(), limit)
            });
      }
    }
    print(run, modelConfig, description, available, plans, largest);
    json.write(figures(run, available, tokens, sequences, plans, largest));
    return Main.DONE;
  }

  /** Beyond that a larger micro-batch only takes more memory. */
  private static final int MOST_SEQUENCES = 1024;

  private TrainConfig configuration() {
    List<String> settings = new ArrayList<>();
    if (method != null) {
      // What the file says of its own method's base may not fit another.
      settings.addAll(List.of("load_in_4bit=", "load_in_8bit=", "quantization="));
      settings.addAll(List.of("llm_int8_threshold=", "method=" + method));
    }
    settings.addAll(overrides);
    if (sequence != null) {
      settings.add("sequence_length=" + sequence);
    }
    if (batch != null) {
      settings.add("per_device_train_batch_size=" + batch);
    }
    if (rank != null) {
      settings.add("lora_r=" + rank);
    }
    if (pack.device() != null) {
      settings.add("device=" + pack.device().key());
    }
    if (config != null) {
      return TrainConfigReader.read(config, settings);
    }
    if (model == null) {
      throw new InputException(
          "expected CONFIG.yaml or --model, found neither; see "
              + spec.qualifiedName()
              + " --help");
    }
    return TrainConfigReader.parse(
        "model: none\ntrain_file: none\noutput_dir: none\n", "--set", settings);
  }

  private void print(
      TrainConfig run,
      ModelConfig modelConfig,
      String description,
      MachineMemory available,
      Map<String, MemoryPlan> plans,
      Map<String, int[]> largest) {
    PrintWriter out = spec.commandLine().getOut();
    MemoryPlan first = plans.values().iterator().next();
    out.printf(
        Locale.ROOT,
        "%s, %,d parameters; %d x %d tokens, rank %d, %s, gradient checkpointing %s%n",
        modelConfig.architecture().modelType(),
        WeightNames.of(modelConfig).parameters(),
        first.batch(),
        first.sequence(),
        run.lora().rank(),
        run.compute().name().toLowerCase(Locale.ROOT),
        checkpointing(run));
    out.println(description);
    out.println();
    List<List<String>> rows = new ArrayList<>();
    List<String> head = new ArrayList<>(List.of("planned memory"));
    plans.keySet().forEach(m -> head.add(m.equals(name(run)) ? m + "*" : m));
    rows.add(head);
    for (int i = 0; i < first.parts().size(); i++) {
      List<String> row = new ArrayList<>(List.of(first.parts().get(i).name()));
      for (MemoryPlan plan : plans.values()) {
        row.add(Text.bytes(plan.parts().get(i).bytes()));
      }
      rows.add(row);
    }
    rows.add(row("together", plans, (m, plan) -> Text.bytes(plan.total())));
    rows.add(row("fits", plans, (m, plan) -> plan.total() <= available.bytes() ? "yes" : "no"));
    rows.add(row("largest batch", plans, (m, plan) -> count(largest, m, 0)));
    rows.add(row("longest sequence", plans, (m, plan) -> count(largest, m, 1)));
    Report.table(rows).forEach(out::println);
    out.println();
    MemoryBars.of(plans).forEach(out::println);
    out.println();
    out.println("* the configuration's method. Memory to fit: " + available.text() + ".");
  }

  /** "on, keeping attention and mlp": as the first line says it. */
  private static String checkpointing(TrainConfig run) {
    if (!run.gradientCheckpointing()) {
      return "off";
    }
    return run.checkpointSave().isEmpty()
        ? "on"
        : run.checkpointSave().stream()
            .map(CheckpointSave::key)
            .sorted()
            .collect(Collectors.joining(" and ", "on, keeping ", ""));
  }

  /** What is planned, by its name: every method, and LoRA on 8 bits where that is configured. */
  private static Map<String, TrainConfig> columns(TrainConfig run) {
    Map<String, TrainConfig> columns = new LinkedHashMap<>();
    columns.put(name(run.withMethod(Method.FULL)), run.withMethod(Method.FULL));
    columns.put(name(run.withDenseBase()), run.withDenseBase());
    columns.put(name(run.withMethod(Method.LORA)), run.withMethod(Method.LORA));
    columns.put(name(run.withMethod(Method.QLORA)), run.withMethod(Method.QLORA));
    return columns;
  }

  /** "lora int8": the method, and how it holds the base in 8 bits. */
  private static String name(TrainConfig run) {
    TrainConfig.EightBit eightBit = run.quantization().eightBit();
    return run.method().name().toLowerCase(Locale.ROOT)
        + (run.method() == Method.LORA && eightBit != null
            ? " " + eightBit.name().toLowerCase(Locale.ROOT)
            : "");
  }

  private static String count(Map<String, int[]> largest, String method, int index) {
    int[] found = largest.get(method);
    int n = found == null ? 0 : found[index];
    return n == 0 ? "none" : n == MOST_SEQUENCES && index == 0 ? n + "+" : Integer.toString(n);
  }

  /** One cell of a row. */
  private interface Cell {
    String text(String method, MemoryPlan plan);
  }

  private static List<String> row(String name, Map<String, MemoryPlan> plans, Cell cell) {
    List<String> row = new ArrayList<>(List.of(name));
    plans.forEach((method, plan) -> row.add(cell.text(method, plan)));
    return row;
  }

  private static ObjectNode figures(
      TrainConfig run,
      MachineMemory available,
      int tokens,
      int sequences,
      Map<String, MemoryPlan> plans,
      Map<String, int[]> largest) {
    ObjectNode node = Json.newObject();
    node.put("method", run.method().name().toLowerCase(Locale.ROOT));
    node.put("sequence", tokens);
    node.put("batch", sequences);
    node.put("memory_bytes", available.bytes());
    ObjectNode methods = node.putObject("methods");
    plans.forEach(
        (method, plan) -> {
          ObjectNode one = methods.putObject(method);
          ObjectNode parts = one.putObject("bytes");
          plan.parts().forEach(part -> parts.put(part.key(), part.bytes()));
          one.put("total_bytes", plan.total());
          one.put("fits", plan.total() <= available.bytes());
          int[] found = largest.getOrDefault(method, new int[2]);
          one.put("largest_batch", found[0]);
          one.put("longest_sequence", found[1]);
        });
    return node;
  }
}
