// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;

/**
 * Where a run stands, as {@code trainer_state.json} of a checkpoint directory holds it. Random numbers need no state of their own:
 * the order of the examples is a function of (data_seed, epoch), dropout of (seed, step, micro-batch), so the step says it all.
 *
 * @param step optimizer steps done
 * @param totalSteps of the whole run
 * @param settings what decides the trained weights ({@link TrainConfig#trainingSettings})
 * @param modelFingerprint of the base's tensors; empty for random initial weights
 * @param dataFingerprint of the tokenized training examples
 * @param metricsBytes length of metrics.jsonl at this step
 * @param initialEvalLoss loss on the held-out examples before training, or NaN
 * @param trainedSeconds time spent in optimizer steps so far
 * @param trainedTokens tokens that went through the model so far
 */
record TrainingState(
    int step,
    int totalSteps,
    Map<String, String> settings,
    String modelFingerprint,
    String dataFingerprint,
    long metricsBytes,
    double initialEvalLoss,
    double trainedSeconds,
    long trainedTokens) {

  private static final String FILE = "trainer_state.json";
  private static final Pattern NAME = Pattern.compile("checkpoint-(\\d{1,9})");
  private static final long MAX_BYTES = 1 << 20;

  TrainingState {
    settings = new TreeMap<>(settings);
  }

  /** Directory of the checkpoint after {@code step} steps. */
  static Path directory(Path checkpoints, int step) {
    return checkpoints.resolve("checkpoint-" + step);
  }

  /** The complete checkpoints in a directory, oldest first; leftovers of killed runs are cleaned up. */
  static List<Path> list(Path checkpoints) {
    if (!Files.isDirectory(checkpoints)) {
      return List.of();
    }
    List<Path> found = new ArrayList<>();
    try {
      for (Path name : hidden(checkpoints)) {
        AtomicOutput.recover(name);
      }
      try (Stream<Path> entries = Files.list(checkpoints)) {
        entries.filter(p -> number(p) >= 0 && Files.isRegularFile(p.resolve(FILE))).forEach(found::add);
      }
    } catch (IOException e) {
      throw new InputException("cannot read the checkpoints in " + checkpoints + ": " + e, e);
    }
    found.sort(Comparator.comparingInt(TrainingState::number));
    return found;
  }

  /** Deletes all but the newest {@code limit} checkpoints; 0 keeps all. */
  static void prune(Path checkpoints, int limit) {
    List<Path> found = list(checkpoints);
    for (int i = 0; limit > 0 && i < found.size() - limit; i++) {
      try {
        // Without its state file a checkpoint is no longer one, so a deletion cut short leaves nothing that could be resumed from.
        Files.delete(found.get(i).resolve(FILE));
        AtomicOutput.deleteTree(found.get(i));
      } catch (IOException e) {
        throw new UncheckedIOException("cannot delete the checkpoint " + found.get(i), e);
      }
    }
  }

  void write(Path directory) {
    ObjectNode json = Json.newObject();
    json.put("step", step);
    json.put("total_steps", totalSteps);
    json.put("model_fingerprint", modelFingerprint);
    json.put("data_fingerprint", dataFingerprint);
    json.put("metrics_bytes", metricsBytes);
    json.put("initial_eval_loss", initialEvalLoss);
    json.put("trained_seconds", trainedSeconds);
    json.put("trained_tokens", trainedTokens);
    ObjectNode saved = json.putObject("settings");
    settings.forEach(saved::put);
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
    field(json, file, "settings").properties().forEach(e -> settings.put(e.getKey(), e.getValue().asText()));
    return new TrainingState(
        field(json, file, "step").asInt(),
        field(json, file, "total_steps").asInt(),
        settings,
        field(json, file, "model_fingerprint").asText(),
        field(json, file, "data_fingerprint").asText(),
        field(json, file, "metrics_bytes").asLong(),
        field(json, file, "initial_eval_loss").asDouble(Double.NaN),
        field(json, file, "trained_seconds").asDouble(),
        field(json, file, "trained_tokens").asLong());
  }

  private static JsonNode field(ObjectNode json, Path file, String key) {
    JsonNode value = json.get(key);
    if (value == null) {
      throw new InputException(file + ": expected " + key + ", found none; the checkpoint is not one of this version, start a new run");
    }
    return value;
  }

  private static int number(Path checkpoint) {
    @Nullable Path name = checkpoint.getFileName();
    Matcher matcher = NAME.matcher(name == null ? "" : name.toString());
    return matcher.matches() ? Integer.parseInt(matcher.group(1)) : -1;
  }

  /** The checkpoints that hidden leftovers in the directory belong to. */
  private static List<Path> hidden(Path checkpoints) throws IOException {
    try (Stream<Path> entries = Files.list(checkpoints)) {
      return entries
          .map(p -> p.getFileName().toString())
          .filter(n -> n.startsWith(".checkpoint-"))
          .map(n -> n.substring(1).replaceFirst("\\.q4j-.*", ""))
          .distinct()
          .map(checkpoints::resolve)
          .toList();
    }
  }
}
