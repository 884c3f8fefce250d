// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.methods;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.study.StudyYaml;
import org.qlora4j.train.TrainConfig;

/**
 * What the study compares; docs/study-methods.md explains the keys.
 *
 * @param title of the report
 * @param outputDir where everything goes
 * @param steps optimizer steps at which methods are compared
 * @param moreSteps optimizer steps at the end
 * @param evalEvery steps between evaluations and checkpoints; divides both
 * @param rates learning rates that every method tries; empty: each has its own
 * @param searchSteps steps of a try
 * @param methods the methods; the first, of method full, is what others are compared with
 * @param shape memory at another model's shape, or null
 */
record MethodStudyConfig(
    String title,
    Path outputDir,
    int steps,
    int moreSteps,
    int evalEvery,
    List<Double> rates,
    int searchSteps,
    List<MethodSpec> methods,
    @Nullable Shape shape) {

  /**
   * Memory at the shape of a model that is too large to be trained here.
   *
   * @param name as the report shows it
   * @param config a config.json
   * @param sequence tokens of a sequence
   * @param batch sequences of a micro-batch
   * @param measure names of methods that are run for two steps with random weights
   */
  record Shape(String name, Path config, int sequence, int batch, List<String> measure) {
    Shape {
      measure = List.copyOf(measure);
    }
  }

  MethodStudyConfig {
    rates = List.copyOf(rates);
    methods = List.copyOf(methods);
  }

  /** Reads and checks the whole configuration, so that nothing of it fails after hours. */
  static MethodStudyConfig read(Path file, List<String> settings) {
    StudyYaml yaml = StudyYaml.read(file, settings);
    yaml.allow(
        Set.of(
            "study",
            "title",
            "output_dir",
            "training",
            "steps",
            "more_steps",
            "eval_every",
            "learning_rates",
            "search_steps",
            "methods",
            "memory_shape"));
    if (!yaml.text("study").equals("methods")) {
      throw yaml.wrong("study", "methods");
    }
    int steps = yaml.integer("steps", 100, 1, 1_000_000);
    int moreSteps = yaml.integer("more_steps", 2 * steps, steps, 1_000_000);
    int evalEvery = yaml.integer("eval_every", steps, 1, steps);
    if (steps % evalEvery != 0 || moreSteps % evalEvery != 0) {
      throw yaml.wrong(
          "eval_every", "a divisor of steps " + steps + " and more_steps " + moreSteps);
    }
    ObjectNode common = yaml.trainingKeys("training");
    List<MethodSpec> methods = new ArrayList<>();
    Map<String, String> slugs = new HashMap<>();
    for (StudyYaml entry : yaml.levels("methods")) {
      MethodSpec spec = MethodSpec.read(entry, common);
      String before = slugs.put(spec.slug(), spec.name());
      if (spec.slug().isEmpty() || before != null) {
        throw entry.wrong(
            "name",
            before == null ? "a name with letters or digits" : "another name than " + before);
      }
      methods.add(spec);
    }
    MethodStudyConfig config =
        new MethodStudyConfig(
            yaml.text("title", "Methods compared"),
            yaml.path("output_dir"),
            steps,
            moreSteps,
            evalEvery,
            rates(yaml),
            yaml.integer("search_steps", Math.max(1, steps / 4), 1, 1_000_000),
            methods,
            yaml.has("memory_shape") ? shape(yaml.level("memory_shape"), methods) : null);
    for (MethodSpec method : methods) {
      TrainConfig training = config.trainConfig(method, null);
      if (training.data().evalFile() == null && training.data().valSetSize() == 0) {
        throw new InputException(
            method.where()
                + ": expected eval_file or val_set_size, for the held-out loss; found neither");
      }
    }
    if (config.trainConfig(methods.get(0), null).method() != TrainConfig.Method.FULL) {
      throw new InputException(
          methods.get(0).where()
              + ": expected method: full first, which the others are compared with");
    }
    return config;
  }

  private static List<Double> rates(StudyYaml yaml) {
    List<Double> rates = new ArrayList<>();
    for (String text : yaml.texts("learning_rates")) {
      double rate;
      try {
        rate = Double.parseDouble(text);
      } catch (NumberFormatException e) {
        throw yaml.wrong("learning_rates", "numbers such as 1e-3");
      }
      if (!(rate > 0 && rate < 100)) {
        throw yaml.wrong("learning_rates", "numbers above 0, such as 1e-3");
      }
      rates.add(rate);
    }
    return rates;
  }

  private static Shape shape(StudyYaml yaml, List<MethodSpec> methods) {
    yaml.allow(
        Set.of("name", "config", "sequence_length", "per_device_train_batch_size", "measure"));
    ModelConfig.readFile(yaml.path("config"));
    List<String> measure = yaml.texts("measure");
    List<String> names = methods.stream().map(MethodSpec::name).toList();
    if (measure.equals(List.of("true"))) {
      measure = names;
    } else if (measure.equals(List.of("false"))) {
      measure = List.of();
    }
    for (String name : measure) {
      if (!names.contains(name)) {
        throw yaml.wrong("measure", "true, false, or names of methods");
      }
    }
    return new Shape(
        yaml.text("name", yaml.path("config").toString()),
        yaml.path("config"),
        yaml.integer("sequence_length", 512, 2, 1 << 20),
        yaml.integer("per_device_train_batch_size", 1, 1, 4096),
        measure);
  }

  /** Where a method's files lie. */
  Path directory(MethodSpec method) {
    return outputDir.resolve("methods").resolve(method.slug());
  }

  /** The base's directory for a method: the model's own, or a copy in another type. */
  Path model(MethodSpec method) {
    return method.storedAs() == null
        ? original(method)
        : outputDir.resolve("bases").resolve(method.storedAs().name().toLowerCase(Locale.ROOT));
  }

  /** The directory that the configuration names. */
  static Path original(MethodSpec method) {
    String model = method.training().path("model").asText();
    if (model.isEmpty()) {
      throw new InputException(
          method.where() + ": model: expected a model's directory, found none");
    }
    return Path.of(model);
  }

  /** The whole training of a method. */
  TrainConfig trainConfig(MethodSpec method, @Nullable Double rate) {
    return method.trainConfig(
        model(method), directory(method).resolve("run"), rate, moreSteps, evalEvery);
  }
}
