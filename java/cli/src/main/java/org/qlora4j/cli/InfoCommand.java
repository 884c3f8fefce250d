// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.lora.TargetModules;
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

/** {@code qlora4j info MODEL_DIR} and {@code qlora4j info --machine}. */
@Command(
    name = "info",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Shows a model's architecture, its parameters, and the memory each training method needs.",
      "config.json is enough; weights, where they are there, are checked against it by their headers.",
      "With --machine: the CPU, which kernel packs run on it, and what it reaches at best, measured."
    })
final class InfoCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      arity = "0..1",
      paramLabel = "MODEL_DIR",
      description = "Hugging Face model directory.")
  private @Nullable Path model;

  @Option(names = "--machine", description = "Shows this machine instead of a model, or after one.")
  private boolean machine;

  @Option(
      names = "--threads",
      defaultValue = "0",
      paramLabel = "N",
      description = "CPU threads of the measurements; 0 for all (default).")
  private int threads;

  @Mixin private PackChoice pack = new PackChoice();

  @Option(
      names = "--rank",
      defaultValue = "16",
      description = "Rank of the adapter (default: ${DEFAULT-VALUE}).")
  private int rank;

  @Option(
      names = "--target-modules",
      split = ",",
      paramLabel = "NAME",
      description = "Adapted linears, separated by commas (default: all inside the blocks).")
  private List<String> targetModules = new ArrayList<>();

  @Mixin private JsonOption json = new JsonOption();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  InfoCommand() {}

  @Override
  public Integer call() {
    if (rank < 1) {
      throw new InputException("--rank: expected at least 1, found " + rank);
    }
    ThreadOption.check(threads);
    if (model == null && !machine) {
      throw new InputException(
          "expected MODEL_DIR or --machine, found neither; see "
              + spec.qualifiedName()
              + " --help");
    }
    // Printed only once everything is known, so that an error stands alone.
    StringWriter text = new StringWriter();
    PrintWriter out = new PrintWriter(text);
    ObjectNode figures = Json.newObject();
    if (model != null) {
      model(model, out, figures);
    }
    if (machine) {
      if (model != null) {
        out.println();
      }
      try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
        new MachineReport(out, figures).write(pack, threads, progress);
      }
    }
    out.flush();
    spec.commandLine().getOut().print(text);
    json.write(figures);
    return Main.DONE;
  }

  private void model(Path directory, PrintWriter out, ObjectNode figures) {
    ModelConfig config = ModelConfig.read(directory);
    WeightNames names = WeightNames.of(config);
    List<WeightNames.Module> targets =
        TargetModules.of(targetModules).select(names.linears(), WeightNames.Module::path);
    architecture(config, names, targets, out, figures);
    weights(directory, names, out, figures);
    if (Tokenizer.exists(directory)) {
      tokenizer(directory, out, figures);
    } else {
      out.println("tokenizer          none (no tokenizer.json)");
    }
    memory(held(directory, config), out, figures);
  }

  /** What training holds from its first step to its last, by method. */
  private Map<String, MemoryPlan> held(Path directory, ModelConfig config) {
    List<String> settings = new ArrayList<>(List.of("lora_r=" + rank));
    if (!targetModules.isEmpty()) {
      settings.add("lora_target_modules=" + targetModules);
    }
    TrainConfig run =
        TrainConfigReader.parse(
            "model: none\ntrain_file: none\noutput_dir: none\n", "the options", settings);
    pack.choosePack();
    Map<String, MemoryPlan> held = new LinkedHashMap<>();
    try (ModelCheckpoint checkpoint =
            ModelCheckpoint.exists(directory) ? ModelCheckpoint.open(directory) : null;
        MemoryPlanner planner = MemoryPlanner.open(run, config, checkpoint, 0)) {
      if (planner.trains(Method.FULL)) {
        held.put("full", planner.held(run.withMethod(Method.FULL)));
      }
      int stored = planner.storedBits();
      if (stored != 4) { // there it is the same as qlora
        held.put(
            "lora (" + (stored == 0 ? 16 : stored) + "-bit base)",
            planner.held(run.withMethod(Method.LORA)));
      }
      if (planner.trains(Method.QLORA)) {
        held.put("qlora (nf4, double quantization)", planner.held(run.withMethod(Method.QLORA)));
      }
    }
    return held;
  }

  private void architecture(
      ModelConfig config,
      WeightNames names,
      List<WeightNames.Module> targets,
      PrintWriter out,
      ObjectNode figures) {
    long linear = names.linears().stream().mapToLong(module -> module.rows() * module.cols()).sum();
    long adapter =
        targets.stream().mapToLong(module -> rank * (module.rows() + module.cols())).sum();
    line(out, "architecture", config.architecture().modelType());
    line(out, "layers", String.valueOf(config.layers()));
    line(out, "hidden size", config.hiddenSize() + ", MLP " + config.ffnSize());
    line(
        out,
        "heads",
        config.heads()
            + " of "
            + config.headDim()
            + (config.kvHeads() == config.heads()
                ? ""
                : ", " + config.kvHeads() + " for keys and values"));
    line(
        out,
        "vocabulary",
        config.vocabSize() + (config.tiedHead() ? ", head tied to the embedding" : ""));
    line(out, "context", config.maxPositions() + " tokens");
    int[] windows =
        config.layerAttention().stream()
            .mapToInt(ModelConfig.LayerAttention::window)
            .filter(window -> window > 0)
            .toArray();
    if (windows.length > 0) {
      line(
          out,
          "sliding window",
          windows[0] + " tokens in " + windows.length + " of " + config.layers() + " layers");
    }
    line(out, "stored as", config.dtype() == null ? "not said" : config.dtype().name());
    line(
        out,
        "parameters",
        String.format(
            Locale.ROOT, "%,d, %,d of them in the blocks' linears", names.parameters(), linear));
    line(
        out,
        "adapter",
        String.format(
            Locale.ROOT, "%,d parameters of rank %d on %d linears", adapter, rank, targets.size()));
    figures.put("architecture", config.architecture().modelType());
    figures.put("layers", config.layers());
    figures.put("hidden_size", config.hiddenSize());
    figures.put("intermediate_size", config.ffnSize());
    figures.put("heads", config.heads());
    figures.put("kv_heads", config.kvHeads());
    figures.put("head_dim", config.headDim());
    figures.put("vocab_size", config.vocabSize());
    figures.put("tied_head", config.tiedHead());
    figures.put("max_positions", config.maxPositions());
    figures.put("sliding_window", windows.length == 0 ? null : windows[0]);
    figures.put("sliding_layers", windows.length);
    figures.put("dtype", config.dtype() == null ? null : config.dtype().name());
    figures.put("parameters", names.parameters());
    figures.put("linear_parameters", linear);
    figures.put("lora_r", rank);
    figures.put("adapted_linears", targets.size());
    figures.put("adapter_parameters", adapter);
  }

  private static void weights(Path model, WeightNames names, PrintWriter out, ObjectNode figures) {
    if (!ModelCheckpoint.exists(model)) {
      line(out, "weights", "none here; the figures are from config.json");
      figures.putNull("weight_bytes");
      return;
    }
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      names.check(checkpoint);
      Map<String, Long> types = new TreeMap<>();
      for (TensorSource tensor : checkpoint.tensors()) {
        types.merge(tensor.storedType().name(), 1L, Long::sum);
      }
      List<String> parts = new ArrayList<>();
      types.forEach((type, count) -> parts.add(count + " " + type));
      line(
          out,
          "weights",
          Text.bytes(checkpoint.bytes())
              + " in "
              + checkpoint.names().size()
              + " tensors ("
              + String.join(", ", parts)
              + ")");
      figures.put("weight_bytes", checkpoint.bytes());
    }
  }

  private static void tokenizer(Path model, PrintWriter out, ObjectNode figures) {
    try (Tokenizer tokenizer = Tokenizer.load(model)) {
      line(
          out,
          "tokenizer",
          "starts with "
              + Text.oneLine(tokenizer.bosToken() == null ? "nothing" : tokenizer.bosToken())
              + ", ends with "
              + Text.oneLine(tokenizer.eosToken() == null ? "nothing" : tokenizer.eosToken())
              + (tokenizer.chatTemplate() == null ? ", no chat template" : ", chat template"));
      figures.put("chat_template", tokenizer.chatTemplate() != null);
    }
  }

  private static void memory(Map<String, MemoryPlan> methods, PrintWriter out, ObjectNode figures) {
    List<List<String>> rows = new ArrayList<>();
    rows.add(
        List.of("memory by method", "weights", "adapter", "gradients", "optimizer", "together"));
    ObjectNode node = figures.putObject("memory_bytes");
    methods.forEach(
        (name, m) -> {
          rows.add(
              List.of(
                  name,
                  Text.bytes(m.weights()),
                  Text.bytes(m.adapters()),
                  Text.bytes(m.gradients()),
                  Text.bytes(m.optimizerStates()),
                  Text.bytes(total(m))));
          ObjectNode one = node.putObject(name.replaceAll(" .*", ""));
          one.put("weights", m.weights());
          one.put("adapters", m.adapters());
          one.put("gradients", m.gradients());
          one.put("optimizer_states", m.optimizerStates());
          one.put("total", total(m));
        });
    out.println();
    Report.table(rows).forEach(out::println);
    out.println(
        "Activations come on top; they depend on the batch, the sequence length and gradient_checkpointing.");
  }

  private static long total(MemoryPlan held) {
    return held.weights() + held.adapters() + held.gradients() + held.optimizerStates();
  }

  private static void line(PrintWriter out, String name, String value) {
    out.printf(Locale.ROOT, "%-18s %s%n", name, value);
  }
}
