// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.methods;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Stream;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.WeightFiles;
import org.qlora4j.study.ChildTask;
import org.qlora4j.study.OtherLoad;
import org.qlora4j.train.DivergedException;
import org.qlora4j.train.MemoryPlan;
import org.qlora4j.train.MemoryPlanner;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;

/**
 * The work that a study does in processes of its own: what each is asked to do lies in a file, and
 * it writes its result to another, whole or not at all.
 */
public final class MethodProcess {
  /** Steps that are slower, because caches and Java are cold. */
  private static final int COLD_STEPS = 3;

  /** What a process does. */
  enum Task {
    /** Makes a copy of a model in another type. */
    CONVERT,
    /** Tries learning rates. */
    SEARCH,
    /** Trains a method to the end. */
    TRAIN,
    /** Plans memory at a shape. */
    PLAN
  }

  private MethodProcess() {}

  /** A child's main method. */
  public static void main(String[] arguments) {
    ChildTask.child(
        arguments,
        (task, request, progress) ->
            switch (Task.valueOf(task.toUpperCase(Locale.ROOT))) {
              case CONVERT -> convert(request, progress);
              case SEARCH -> search(request, progress);
              case TRAIN -> train(request, progress);
              case PLAN -> plan(request);
            });
  }

  private static Path path(ObjectNode request, String key) {
    return Path.of(request.path(key).asText());
  }

  private static MethodSpec spec(JsonNode node) {
    return MethodSpec.of((ObjectNode) node);
  }

  // ---------------------------------------------------------------- models

  private static ObjectNode convert(ObjectNode request, Progress progress) throws IOException {
    Path source = path(request, "model");
    DType type = DType.valueOf(request.path("stored_as").asText());
    ModelConfig config = ModelConfig.read(source);
    try (KernelPack pack = KernelPack.openAutomatic();
        ModelCheckpoint checkpoint = ModelCheckpoint.open(source);
        DecoderModel model =
            ModelLoader.load(
                pack,
                config,
                checkpoint,
                new ModelLoader.Options(DType.F32, null, true),
                progress);
        AtomicOutput out = AtomicOutput.directory(path(request, "target"))) {
      ParameterSet weights = model.weights();
      if (weights == null) {
        throw new IllegalStateException("weights that are trained are parameters");
      }
      WeightFiles.write(pack, weights, out.path(), type);
      ModelCheckpoint.copyCompanions(source, out.path(), torchName(type));
      out.commit();
    }
    return Json.newObject().put("done", true);
  }

  static String torchName(DType type) {
    return switch (type) {
      case F32 -> "float32";
      case F16 -> "float16";
      case BF16 -> "bfloat16";
      default -> throw new IllegalArgumentException("no model is stored as " + type);
    };
  }

  // ---------------------------------------------------------------- trainings

  /** Mean training loss of the second half of each try; no held-out example is looked at. */
  private static ObjectNode search(ObjectNode request, Progress progress) throws IOException {
    MethodSpec spec = spec(request.path("method")).withoutEvalFile();
    int steps = request.path("steps").asInt();
    Path directory = path(request, "directory");
    ObjectNode result = Json.newObject();
    ArrayNode tries = result.putArray("tries");
    for (JsonNode rate : request.path("rates")) {
      AtomicOutput.deleteTree(directory);
      TrainConfig config =
          spec.trainConfig(path(request, "model"), directory, rate.asDouble(), steps, 0);
      try {
        TrainingRun.run(config, false, progress);
      } catch (DivergedException e) {
        progress.message("learning rate " + rate.asText() + ": " + e.getMessage());
        tries.addObject().put("learning_rate", rate.asDouble()).putNull("loss");
        continue;
      }
      double sum = 0;
      int counted = 0;
      for (ObjectNode line : metrics(directory)) {
        if (line.has("loss") && line.path("step").asInt() > steps / 2) {
          sum += line.path("loss").asDouble();
          counted++;
        }
      }
      tries.addObject().put("learning_rate", rate.asDouble()).put("loss", sum / counted);
    }
    AtomicOutput.deleteTree(directory);
    return result;
  }

  private static ObjectNode train(ObjectNode request, Progress progress) throws IOException {
    OtherLoad others = new OtherLoad();
    MethodSpec spec = spec(request.path("method"));
    Path directory = path(request, "directory");
    double rate = request.path("learning_rate").asDouble();
    TrainConfig config =
        spec.trainConfig(
            path(request, "model"),
            directory,
            rate > 0 ? rate : null,
            request.path("steps").asInt(),
            request.path("eval_every").asInt());
    boolean resumed = Files.exists(directory.resolve("checkpoints"));
    TrainingSummary summary = TrainingRun.run(config, true, progress);
    List<ObjectNode> lines = metrics(directory);
    MethodResult result =
        new MethodResult(
            spec.name(),
            config.optimizer().learningRate(),
            summary.trainedParameters(),
            bytes(summary.output()),
            summary.peakBytes(),
            parts(summary.memory()),
            medianStep(lines),
            summary.tokensPerSecond(),
            others.cpus(),
            resumed,
            curve(lines));
    AtomicOutput.deleteTree(directory.resolve("checkpoints"));
    return result.toJson();
  }

  private static Map<String, Long> parts(TrainingSummary.Memory memory) {
    Map<String, Long> parts = new LinkedHashMap<>();
    parts.put("weights", memory.weights());
    parts.put("adapters", memory.adapters());
    parts.put("gradients", memory.gradients());
    parts.put("optimizer states", memory.optimizerStates());
    parts.put("activations", memory.activations());
    parts.put("workspace", memory.workspace());
    return parts;
  }

  private static List<ObjectNode> metrics(Path directory) throws IOException {
    List<ObjectNode> lines = new ArrayList<>();
    for (String line : Files.readAllLines(directory.resolve("metrics.jsonl"))) {
      lines.add(Json.object(line, "metrics.jsonl"));
    }
    return lines;
  }

  private static List<MethodResult.Point> curve(List<ObjectNode> lines) {
    List<MethodResult.Point> curve = new ArrayList<>();
    double seconds = 0;
    for (ObjectNode line : lines) {
      if (line.has("loss")) {
        seconds += line.path("seconds").asDouble();
      } else if (line.has("eval_loss")) {
        curve.add(
            new MethodResult.Point(
                line.path("step").asInt(), seconds, line.path("eval_loss").asDouble()));
      }
    }
    return curve;
  }

  private static double medianStep(List<ObjectNode> lines) {
    double[] seconds =
        lines.stream()
            .filter(line -> line.has("loss"))
            .mapToDouble(line -> line.path("seconds").asDouble())
            .toArray();
    double[] warm =
        seconds.length > 2 * COLD_STEPS
            ? Arrays.copyOfRange(seconds, COLD_STEPS, seconds.length)
            : seconds;
    Arrays.sort(warm);
    return warm[warm.length / 2];
  }

  private static long bytes(Path directory) throws IOException {
    try (Stream<Path> files = Files.walk(directory)) {
      long bytes = 0;
      for (Path file : (Iterable<Path>) files.filter(Files::isRegularFile)::iterator) {
        bytes += Files.size(file);
      }
      return bytes;
    }
  }

  // ---------------------------------------------------------------- memory at a shape

  private static ObjectNode plan(ObjectNode request) {
    Path configFile = path(request, "config");
    ObjectNode result = Json.newObject();
    ObjectNode plans = result.putObject("plans");
    for (JsonNode node : request.path("methods")) {
      MethodSpec spec = spec(node);
      TrainConfig config = spec.trainConfig(configFile, Path.of("none"), null, 1, 0);
      ModelConfig model = shape(configFile, spec);
      try (MemoryPlanner planner =
          MemoryPlanner.open(config, model, null, MemoryPlanner.TOKENIZER_AND_EXAMPLES)) {
        MemoryPlan plan =
            planner.plan(config, request.path("sequence").asInt(), request.path("batch").asInt());
        ObjectNode parts = plans.putObject(spec.name());
        plan.parts().forEach(part -> parts.put(part.name(), part.bytes()));
      }
    }
    return result;
  }

  /** The shape, stored as the method's base is. */
  private static ModelConfig shape(Path configFile, MethodSpec spec) {
    ObjectNode json = Json.readObject(configFile, 16 << 20);
    if (spec.storedAs() != null) {
      json.remove("dtype");
      json.put("torch_dtype", torchName(spec.storedAs()));
    }
    return ModelConfig.parse(json, configFile.toString());
  }
}
