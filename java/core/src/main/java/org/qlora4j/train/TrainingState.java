// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.model.ModelSettings;
import org.qlora4j.model.WeightNames;

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

  /**
   * Reads the file of a checkpoint directory.
   *
   * @throws InputException where it is none, or says what no run writes
   */
  static TrainingState read(Path directory) {
    Fields fields = new Fields(directory.resolve(FILE));
    Map<String, String> settings = new TreeMap<>(fields.texts("settings"));
    // Checkpoints of earlier versions do not name the only kind of states there was, and have the
    // text of a Java record for the model's config.
    settings.putIfAbsent("optim", TrainConfig.Optim.ADAMW.states());
    settings.remove("config.json");
    boolean earlier = !fields.has("model");
    if (earlier && !trainsEmbedding(settings)) {
      // They took a rate that nothing was trained at, which is refused now.
      settings.remove(TrainConfig.EMBEDDING_RATE);
    }
    int totalSteps = (int) fields.whole("total_steps", 1, Integer.MAX_VALUE);
    return new TrainingState(
        (int) fields.whole("step", 1, totalSteps),
        totalSteps,
        new Identity(
            settings,
            earlier ? null : fields.texts("model"),
            fields.text("model_fingerprint"),
            fields.text("data_fingerprint")),
        fields.has("kernel_pack") ? fields.text("kernel_pack") : "",
        fields.whole("metrics_bytes", 0, Long.MAX_VALUE),
        fields.loss("initial_eval_loss"),
        fields.texts("samples_before"),
        fields.seconds("trained_seconds"),
        fields.whole("trained_tokens", 0, Long.MAX_VALUE));
  }

  /** As {@link org.qlora4j.lora.LoraConfig#saves}, from the text of the names. */
  private static boolean trainsEmbedding(Map<String, String> settings) {
    String names = settings.getOrDefault(TrainConfig.MODULES_TO_SAVE, "");
    return Arrays.stream(names.replaceAll("[\\[\\]\\s]", "").split(",", -1))
        .filter(name -> !name.isEmpty())
        .anyMatch(name -> WeightNames.embeddings().stream().anyMatch(path -> path.endsWith(name)));
  }

  /** The fields of a file that is not trusted. */
  private static final class Fields {
    private final Path file;
    private final ObjectNode json;

    Fields(Path file) {
      this.file = file;
      this.json = Json.readObject(file, MAX_BYTES);
    }

    boolean has(String key) {
      return json.has(key);
    }

    String text(String key) {
      JsonNode value = field(key);
      if (!value.isTextual()) {
        throw wrong(key, "a text", value);
      }
      return value.textValue();
    }

    Map<String, String> texts(String key) {
      JsonNode map = field(key);
      if (!map.isObject()) {
        throw wrong(key, "an object of texts", map);
      }
      Map<String, String> texts = new HashMap<>();
      for (Map.Entry<String, JsonNode> entry : map.properties()) {
        if (!entry.getValue().isTextual()) {
          throw wrong(key, "an object of texts", entry.getValue());
        }
        texts.put(entry.getKey(), entry.getValue().textValue());
      }
      return texts;
    }

    long whole(String key, long least, long most) {
      JsonNode value = field(key);
      if (!value.isIntegralNumber()
          || !value.canConvertToLong()
          || value.longValue() < least
          || value.longValue() > most) {
        throw wrong(
            key,
            most == Long.MAX_VALUE
                ? "a whole number of at least " + least
                : "a whole number from " + least + " to " + most,
            value);
      }
      return value.longValue();
    }

    double seconds(String key) {
      JsonNode value = field(key);
      if (!value.isNumber() || !(value.doubleValue() >= 0) || !Double.isFinite(value.asDouble())) {
        throw wrong(key, "a number of at least 0", value);
      }
      return value.doubleValue();
    }

    /** Where there is no loss, or none that is finite, it is written as a text. */
    double loss(String key) {
      JsonNode value = field(key);
      if (value.isTextual()) {
        return switch (value.textValue()) {
          case "NaN" -> Double.NaN;
          case "Infinity" -> Double.POSITIVE_INFINITY;
          default -> throw wrong(key, "a number", value);
        };
      }
      if (!value.isNumber()) {
        throw wrong(key, "a number", value);
      }
      return value.doubleValue();
    }

    private JsonNode field(String key) {
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

    private InputException wrong(String key, String expected, JsonNode found) {
      return new InputException(
          file
              + ": "
              + key
              + ": expected "
              + expected
              + ", found "
              + Json.kind(found)
              + "; the checkpoint is damaged, delete it or start a new run");
    }
  }
}
