// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.generation;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Progress;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.generate.SamplingConfig;
import org.qlora4j.generate.TextGenerator;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.study.ChildTask;
import org.qlora4j.study.OtherLoad;
import org.qlora4j.study.StudyYaml;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.train.MemoryPlan;
import org.qlora4j.train.MemoryPlanner;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfig.Method;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;

/** The work that the study does in processes of its own. */
public final class GenerationProcess {
  /** Tunes the model. */
  static final String TRAIN = "train";

  /** Writes a text for each prompt. */
  static final String GENERATE = "generate";

  /** Plans the memory of LoRA and QLoRA. */
  static final String PLAN = "plan";

  private GenerationProcess() {}

  /** A child's main method. */
  public static void main(String[] arguments) {
    ChildTask.child(
        arguments,
        (task, request, progress) ->
            switch (task) {
              case TRAIN -> train(request, progress);
              case GENERATE -> generate(request, progress);
              case PLAN -> plan(request);
              default -> throw new IllegalArgumentException(task);
            });
  }

  private static TrainConfig config(ObjectNode request) {
    return TrainConfigReader.parse(
        StudyYaml.write(request.path("training")), request.path("where").asText(), List.of());
  }

  private static ObjectNode train(ObjectNode request, Progress progress) {
    OtherLoad others = new OtherLoad();
    TrainingSummary summary = TrainingRun.run(config(request), true, progress);
    return Json.newObject()
        .put("others_cpus", others.cpus())
        .put("adapter", summary.output().toString())
        .put("steps", summary.steps())
        .put("trained_parameters", summary.trainedParameters())
        .put("total_parameters", summary.totalParameters())
        .put("loss_before", summary.initialEvalLoss())
        .put("loss_after", summary.finalEvalLoss())
        .put("seconds", summary.trainedSeconds())
        .put("tokens_per_s", summary.tokensPerSecond())
        .put("peak_bytes", summary.peakBytes());
  }

  /** The base as the training held it, alone or with the adapter. */
  private static ObjectNode generate(ObjectNode request, Progress progress) {
    OtherLoad others = new OtherLoad();
    TrainConfig config = config(request);
    Path directory = config.model();
    ModelConfig modelConfig = ModelConfig.read(directory);
    ModelLoader.Options options =
        new ModelLoader.Options(config.computeType(), config.baseQuantization(), false);
    ObjectNode result = Json.newObject();
    ArrayNode texts = result.putArray("texts");
    try (KernelPack pack =
            config.device().open(PackOptions.defaults().withThreads(config.threads()));
        Tokenizer tokenizer = Tokenizer.load(directory);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(directory);
        DecoderModel model =
            ModelLoader.load(pack, modelConfig, checkpoint, options, Progress.none());
        LoraAdapter adapter = adapter(pack, request, model);
        TensorArena arena = new TensorArena(pack)) {
      Pass pass = Pass.inference(pack, arena, config.computeType(), config.loraCompute());
      TextGenerator generator = new TextGenerator(model, pass, tokenizer.stopIds());
      JsonNode prompts = request.path("prompts");
      JsonNode sampling = request.path("generation");
      progress.start("writing", prompts.size());
      for (int i = 0; i < prompts.size(); i++) {
        int[] prompt = tokenizer.encode(prompts.get(i).asText());
        // A prompt has the same draws in both models, and another prompt others.
        SamplingConfig own = sampling(sampling, i);
        long start = System.nanoTime();
        int[] made = generator.generate(prompt, own);
        double seconds = (System.nanoTime() - start) / 1e9;
        int room = Math.min(own.maxNewTokens(), modelConfig.maxPositions() - prompt.length);
        texts.add(
            new GeneratedText(
                    tokenizer.decode(made).strip(), made.length, made.length < room, seconds)
                .toJson());
        progress.update(i + 1, made.length + " tokens");
      }
      progress.finish();
    }
    return result.put("others_cpus", others.cpus()).put("peak_bytes", MemoryUse.now().peakBytes());
  }

  private static @Nullable LoraAdapter adapter(
      KernelPack pack, ObjectNode request, DecoderModel model) {
    String adapter = request.path("adapter").asText();
    return adapter.isEmpty() ? null : LoraAdapter.load(pack, Path.of(adapter), model);
  }

  static SamplingConfig sampling(JsonNode json, int prompt) {
    return new SamplingConfig(
        json.path("max_new_tokens").asInt(),
        json.path("temperature").asDouble(),
        json.path("top_k").asInt(),
        json.path("top_p").asDouble(),
        json.path("repetition_penalty").asDouble(),
        json.path("seed").asLong() + prompt);
  }

  private static ObjectNode plan(ObjectNode request) {
    Path shape = Path.of(request.path("config").asText());
    ModelConfig model = ModelConfig.readFile(shape);
    TrainConfig config = config(request);
    ObjectNode result = Json.newObject();
    try (MemoryPlanner planner =
        MemoryPlanner.open(config, model, null, MemoryPlanner.TOKENIZER_AND_EXAMPLES)) {
      for (Method method : List.of(Method.LORA, Method.QLORA)) {
        MemoryPlan plan =
            planner.plan(
                config.withMethod(method),
                request.path("sequence").asInt(),
                request.path("batch").asInt());
        ObjectNode parts = result.putObject(method.name().toLowerCase(Locale.ROOT));
        plan.parts().forEach(part -> parts.put(part.name(), part.bytes()));
      }
    }
    return result;
  }
}
