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
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;

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
   * @param settings as {@link TrainConfig#trainingSettings} gives them, and the model's config
   * @param modelFingerprint of the base's tensors; empty for random initial weights
   * @param dataFingerprint of the tokenized training examples
   */
  record Identity(Map<String, String> settings, String modelFingerprint, String dataFingerprint) {
    Identity {
      settings = new TreeMap<>(settings);
    }

    /** "key: saved X, now Y" for everything in which {@code now} is another run. */
    List<String> differences(Identity now) {
      List<String> differences = new ArrayList<>(TrainConfig.differences(settings, now.settings));
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
    try {
      Files.writeString(directory.resolve(FILE), Json.pretty(json));
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + directory.resolve(FILE), e);
    }
  }

  static TrainingState read(Path directory) {
    Path file = directory.resolve(FILE);
    ObjectNode json = Json.readObject(file, MAX_BYTES);
    Map<String, String> settings = new TreeMap<>();
    field(json, file, "settings")
        .properties()
        .forEach(e -> settings.put(e.getKey(), e.getValue().asText()));
    // Checkpoints of earlier versions do not name the only kind of states there was.
    settings.putIfAbsent("optim", TrainConfig.Optim.ADAMW.states());
    Map<String, String> samplesBefore = new HashMap<>();
    field(json, file, "samples_before")
        .properties()
        .forEach(e -> samplesBefore.put(e.getKey(), e.getValue().asText()));
    return new TrainingState(
        field(json, file, "step").asInt(),
        field(json, file, "total_steps").asInt(),
        new Identity(
            settings,
            field(json, file, "model_fingerprint").asText(),
            field(json, file, "data_fingerprint").asText()),
        json.path("kernel_pack").asText(),
        field(json, file, "metrics_bytes").asLong(),
        field(json, file, "initial_eval_loss").asDouble(Double.NaN),
        samplesBefore,
        field(json, file, "trained_seconds").asDouble(),
        field(json, file, "trained_tokens").asLong());
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
