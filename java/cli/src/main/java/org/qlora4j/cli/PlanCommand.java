// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ArrayNode;
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
import org.qlora4j.train.TrainConfigReader.ForMethod;
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
      description = {
        "full, lora or qlora instead of the configuration's own. Options of the configuration that"
            + " it has no use for are left out."
      })
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
    Map<String, ForMethod> columns = new LinkedHashMap<>();
    TrainConfig run = configuration(columns);
    Path shape = model == null ? run.model() : model;
    ModelConfig modelConfig =
        Files.isRegularFile(shape) ? ModelConfig.readFile(shape) : ModelConfig.read(shape);
    for (ForMethod column : columns.values()) {
      if (column.config().method().adapter()) {
        column.config().checkAdapter(modelConfig);
      }
    }
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
      for (Map.Entry<String, ForMethod> column : columns.entrySet()) {
        String each = column.getKey();
        TrainConfig one = column.getValue().config();
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
    columns.keySet().retainAll(plans.keySet());
    print(run, modelConfig, description, available, columns, plans, largest);
    json.write(figures(run, available, tokens, sequences, columns, plans, largest));
    return Main.DONE;
  }

  /** Beyond that a larger micro-batch only takes more memory. */
  private static final int MOST_SEQUENCES = 1024;

  /**
   * The configuration to run.
   *
   * @param columns filled with it as each method would have it, by the columns' names: every
   *     method, and LoRA on 8 bits where that is configured
   */
  private TrainConfig configuration(Map<String, ForMethod> columns) {
    List<String> settings = new ArrayList<>(overrides);
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
    if (config == null && model == null) {
      throw new InputException(
          "expected CONFIG.yaml or --model, found neither; see "
              + spec.qualifiedName()
              + " --help");
    }
    String source = config == null ? "--set" : config.toString();
    String yaml =
        config == null
            ? "model: none\ntrain_file: none\noutput_dir: none\n"
            : TrainConfigReader.text(config);
    Method asked = asked();
    ForMethod own =
        asked == null
            ? new ForMethod(TrainConfigReader.parse(yaml, source, settings), List.of())
            : TrainConfigReader.parseFor(asked, yaml, source, List.of(), settings);
    TrainConfig run = own.config();
    for (Method each : Method.values()) {
      ForMethod one =
          each == run.method()
              ? own
              : TrainConfigReader.parseFor(each, yaml, source, settings, List.of());
      if (each == Method.LORA) {
        TrainConfig dense = one.config().withDenseBase();
        columns.put(name(dense), new ForMethod(dense, one.leftOut()));
      }
      columns.put(name(one.config()), one);
    }
    return run;
  }

  private @Nullable Method asked() {
    if (method == null) {
      return null;
    }
    Method found = TrainConfigReader.method(method);
    if (found == null) {
      throw new InputException(
          "--method: expected full, lora or qlora, found " + Text.quote(method));
    }
    return found;
  }

  private void print(
      TrainConfig run,
      ModelConfig modelConfig,
      String description,
      MachineMemory available,
      Map<String, ForMethod> columns,
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
        rank(run, columns),
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
    Map<String, List<String>> leftOut = new LinkedHashMap<>();
    columns.forEach(
        (name, column) ->
            column
                .leftOut()
                .forEach(key -> leftOut.computeIfAbsent(key, k -> new ArrayList<>()).add(name)));
    leftOut.forEach(
        (key, names) ->
            out.println(
                "Planned without "
                    + key
                    + ", which does not apply: "
                    + String.join(", ", names)
                    + "."));
  }

  /** That of the adapter; method full may have had to leave out where it comes from. */
  private static int rank(TrainConfig run, Map<String, ForMethod> columns) {
    return run.method().adapter()
        ? run.lora().rank()
        : columns.values().stream()
            .map(ForMethod::config)
            .filter(column -> column.method().adapter())
            .findFirst()
            .orElse(run)
            .lora()
            .rank();
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
      Map<String, ForMethod> columns,
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
          ArrayNode leftOut = one.putArray("left_out");
          ForMethod column = columns.get(method);
          if (column != null) {
            column.leftOut().forEach(leftOut::add);
          }
        });
    return node;
  }
}
