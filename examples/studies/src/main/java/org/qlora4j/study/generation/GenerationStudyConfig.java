// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.generation;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.study.StudyYaml;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfigReader;

/**
 * What the study does; docs/study-generation.md explains the keys.
 *
 * @param title of the report
 * @param language of the texts, as HTML names it
 * @param outputDir where everything goes
 * @param refine configuration of {@code data refine} whose examples are trained on as well, or null
 * @param prompts examples that training never sees, of which the prompts are used
 * @param promptCount how many of them, from the first on
 * @param sentimentModel judges texts
 * @param threshold probability from which on a text counts as positive
 * @param copyWords longest run of words that a text may share with the training examples
 * @param samples prompts whose texts the report shows, from the first on
 * @param seed of the bootstrap
 * @param generation max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed
 * @param training keys of a training configuration
 * @param shape memory at another model's shape, or null
 */
record GenerationStudyConfig(
    String title,
    String language,
    Path outputDir,
    @Nullable Path refine,
    Path prompts,
    int promptCount,
    Path sentimentModel,
    double threshold,
    int copyWords,
    int samples,
    long seed,
    ObjectNode generation,
    ObjectNode training,
    String where,
    @Nullable Shape shape) {

  /**
   * A larger model's shape.
   *
   * @param name as the report shows it
   * @param config a config.json
   * @param sequence tokens of a sequence
   * @param batch sequences of a micro-batch
   * @param training keys that differ there
   * @param measure which of lora and qlora are run for two steps with random weights
   */
  record Shape(
      String name,
      Path config,
      int sequence,
      int batch,
      ObjectNode training,
      List<String> measure) {
    Shape {
      measure = List.copyOf(measure);
    }
  }

  /** What is compared at a larger shape. */
  static final List<String> METHODS = List.of("lora", "qlora");

  private static final Set<String> DECIDED = Set.of("output_dir", "sample_prompts", "method");

  /** Reads and checks the whole configuration, so that nothing of it fails after the training. */
  static GenerationStudyConfig read(Path file, List<String> settings) {
    StudyYaml yaml = StudyYaml.read(file, settings);
    yaml.allow(
        Set.of(
            "study",
            "title",
            "language",
            "output_dir",
            "refine",
            "prompts",
            "prompt_count",
            "sentiment_model",
            "sentiment_threshold",
            "copy_words",
            "samples",
            "seed",
            "generation",
            "training",
            "memory_shape"));
    if (!yaml.text("study").equals("generation")) {
      throw yaml.wrong("study", "generation");
    }
    ObjectNode training = yaml.trainingKeys("training");
    for (String key : (Iterable<String>) training::fieldNames) {
      if (DECIDED.contains(key)) {
        throw new InputException(
            yaml.where() + ": training: " + key + " is decided by the study; remove it");
      }
    }
    GenerationStudyConfig config =
        new GenerationStudyConfig(
            yaml.text("title", "Texts before and after tuning"),
            yaml.text("language", "ko"),
            yaml.path("output_dir"),
            yaml.has("refine") ? yaml.path("refine") : null,
            yaml.path("prompts"),
            yaml.integer("prompt_count", 100, 1, 100_000),
            yaml.path("sentiment_model"),
            yaml.number("sentiment_threshold", 0.5, 0, 1),
            yaml.integer("copy_words", 10, 1, 10_000),
            yaml.integer("samples", 10, 0, 1000),
            yaml.integer("seed", 42, 0, Integer.MAX_VALUE),
            generation(yaml),
            training,
            yaml.where() + ": training",
            yaml.has("memory_shape") ? shape(yaml.level("memory_shape")) : null);
    TrainConfig train = config.trainConfig(List.of());
    if (train.data().evalFile() == null && train.data().valSetSize() == 0) {
      throw new InputException(
          yaml.where()
              + ": training: expected eval_file or val_set_size, for the perplexity; found neither");
    }
    if (config.shape() != null) {
      TrainConfigReader.parse(
          StudyYaml.write(config.shapeKeys(config.shape())),
          yaml.where() + ": memory_shape",
          List.of());
    }
    return config;
  }

  private static ObjectNode generation(StudyYaml yaml) {
    ObjectNode made = Json.newObject();
    StudyYaml level = yaml.optionalLevel("generation");
    level.allow(
        Set.of("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed"));
    made.put("max_new_tokens", level.integer("max_new_tokens", 200, 1, 1 << 20));
    made.put("temperature", level.number("temperature", 0.7, 0, 100));
    made.put("top_k", level.integer("top_k", 0, 0, Integer.MAX_VALUE));
    made.put("top_p", level.number("top_p", 0.9, 1e-6, 1));
    made.put("repetition_penalty", level.number("repetition_penalty", 1, 0.01, 100));
    made.put("seed", level.integer("seed", 42, 0, Integer.MAX_VALUE));
    return made;
  }

  private static Shape shape(StudyYaml yaml) {
    yaml.allow(
        Set.of(
            "name",
            "config",
            "sequence_length",
            "per_device_train_batch_size",
            "training",
            "measure"));
    List<String> measure = yaml.texts("measure");
    if (!METHODS.containsAll(measure)) {
      throw yaml.wrong("measure", "a list of lora and qlora");
    }
    ModelConfig.readFile(yaml.path("config"));
    return new Shape(
        yaml.text("name"),
        yaml.path("config"),
        yaml.integer("sequence_length", 512, 2, 1 << 24),
        yaml.integer("per_device_train_batch_size", 1, 1, 1 << 20),
        yaml.has("training") ? yaml.trainingKeys("training") : Json.newObject(),
        measure);
  }

  /** The training's keys, with further files of examples. */
  ObjectNode trainingKeys(List<Path> more) {
    ObjectNode keys = training.deepCopy();
    keys.put("method", "qlora");
    keys.put("output_dir", outputDir.resolve("training").toString());
    if (!more.isEmpty()) {
      JsonNode own = keys.path("train_file").deepCopy();
      ArrayNode files = keys.putArray("train_file");
      if (own.isArray()) {
        own.forEach(files::add);
      } else if (!own.isMissingNode()) {
        files.add(own);
      }
      more.forEach(path -> files.add(path.toString()));
    }
    return keys;
  }

  /** The training, with further files of examples. */
  TrainConfig trainConfig(List<Path> more) {
    return TrainConfigReader.parse(StudyYaml.write(trainingKeys(more)), where, List.of());
  }

  /** The training's keys at the larger shape. */
  ObjectNode shapeKeys(Shape at) {
    ObjectNode keys = trainingKeys(List.of());
    keys.setAll(at.training());
    keys.put("sequence_length", at.sequence()).put("per_device_train_batch_size", at.batch());
    return keys;
  }
}
