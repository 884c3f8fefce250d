// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.model.ModelSettings;

/**
 * Where a run stands, as {@code trainer_state.json} of a checkpoint directory holds it. Random
 * numbers need no state of their own: the order of the examples is a function of (data_seed,
 * epoch), dropout of (seed, step, micro-batch), so the step says it all.
 *
 * @param step optimizer steps done
 * @param totalSteps of the whole run
 * @param identity what must be the same for the run to go on
 * @param pack name of the kernel pack that computed, or empty in checkpoints of earlier versions
 * @param metricsBytes length of metrics.jsonl at this step
 * @param initialEvalLoss loss on the held-out examples before training, or NaN
 * @param samplesBefore texts generated before training, by their prompts
 * @param trainedSeconds time spent in optimizer steps so far
 * @param trainedTokens tokens that went through the model so far
 */
record TrainingState(
    int step,
    int totalSteps,
    Identity identity,
    String pack,
    long metricsBytes,
    double initialEvalLoss,
    Map<String, String> samplesBefore,
    double trainedSeconds,
    long trainedTokens) {

  static final String FILE = "trainer_state.json";
  private static final long MAX_BYTES = 64 << 20;

  TrainingState {
    samplesBefore = Map.copyOf(samplesBefore);
  }

  /**
   * What decides a run's result.
   *
   * @param settings as {@link TrainConfig#trainingSettings} gives them
   * @param model what the model computes, as {@link ModelSettings} names it; null in checkpoints of
   *     earlier versions, which said it in a form that cannot be compared
   * @param modelFingerprint of the base's tensors; empty for random initial weights
   * @param dataFingerprint of the tokenized training examples
   */
  record Identity(
      Map<String, String> settings,
      @Nullable Map<String, String> model,
      String modelFingerprint,
      String dataFingerprint) {
    Identity {
      settings = new TreeMap<>(settings);
      model = model == null ? null : new TreeMap<>(model);
    }

    /** A setting that is a whole number; 0 where it is not there or is none. */
    int number(String key) {
      String text = settings.getOrDefault(key, "");
      return text.matches("\\d{1,9}") ? Integer.parseInt(text) : 0;
    }

    /** "key: saved X, now Y" for everything in which {@code now} is another run. */
    List<String> differences(Identity now) {
      List<String> differences = new ArrayList<>(TrainConfig.differences(settings, now.settings));
      if (model != null && now.model != null) {
        TrainConfig.differences(model, now.model)
            .forEach(difference -> differences.add("config.json: " + difference));
      }
      if (!modelFingerprint.equals(now.modelFingerprint)) {
        differences.add("model: its weights are not those of the checkpoint's run");
      }
      if (!dataFingerprint.equals(now.dataFingerprint)) {
        differences.add("training examples: they are not those of the checkpoint's run");
      }
      return differences;
    }
  }

  void write(Path directory) {
    ObjectNode json = Json.newObject();
    json.put("step", step);
    json.put("total_steps", totalSteps);
    json.put("model_fingerprint", identity.modelFingerprint());
    json.put("data_fingerprint", identity.dataFingerprint());
    json.put("kernel_pack", pack);
    json.put("metrics_bytes", metricsBytes);
    json.put("initial_eval_loss", initialEvalLoss);
    json.put("trained_seconds", trainedSeconds);
    json.put("trained_tokens", trainedTokens);
    ObjectNode samples = json.putObject("samples_before");
    samplesBefore.forEach(samples::put);
    ObjectNode saved = json.putObject("settings");
    identity.settings().forEach(saved::put);
    Map<String, String> model = identity.model();
    if (model != null) {
      ObjectNode shape = json.putObject("model");
      model.forEach(shape::put);
    }
    try {
      Files.writeString(directory.resolve(FILE), Json.pretty(json));
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + directory.resolve(FILE), e);
    }
  }

  static TrainingState read(Path directory) {
    Path file = directory.resolve(FILE);
    ObjectNode json = Json.readObject(file, MAX_BYTES);
    Map<String, String> settings = texts(field(json, file, "settings"));
    // Checkpoints of earlier versions do not name the only kind of states there was, and have the
    // text of a Java record for the model's config.
    settings.putIfAbsent("optim", TrainConfig.Optim.ADAMW.states());
    settings.remove("config.json");
    return new TrainingState(
        field(json, file, "step").asInt(),
        field(json, file, "total_steps").asInt(),
        new Identity(
            settings,
            json.has("model") ? texts(json.path("model")) : null,
            field(json, file, "model_fingerprint").asText(),
            field(json, file, "data_fingerprint").asText()),
        json.path("kernel_pack").asText(),
        field(json, file, "metrics_bytes").asLong(),
        field(json, file, "initial_eval_loss").asDouble(Double.NaN),
        texts(field(json, file, "samples_before")),
        field(json, file, "trained_seconds").asDouble(),
        field(json, file, "trained_tokens").asLong());
  }

  private static Map<String, String> texts(JsonNode object) {
    Map<String, String> texts = new HashMap<>();
    object.properties().forEach(e -> texts.put(e.getKey(), e.getValue().asText()));
    return texts;
  }

  private static JsonNode field(ObjectNode json, Path file, String key) {
    JsonNode value = json.get(key);
    if (value == null) {
      throw new InputException(
          file
              + ": expected "
              + key
              + ", found none; the checkpoint is not one of this version, start a new run");
    }
    return value;
  }
}
