// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.methods;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.kernels.DType;
import org.qlora4j.study.ChildTask;
import org.qlora4j.study.StudyYaml;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfigReader;

/**
 * A method of the study: a name, and the keys of a training configuration that make it.
 *
 * @param name as the report shows it
 * @param storedAs type the base's files have for this method, or null: as they are
 * @param training every key of its training that the study does not decide
 * @param where it was read from, for messages
 */
record MethodSpec(String name, @Nullable DType storedAs, ObjectNode training, String where) {
  private static final String NAME = "name";
  private static final String STORED_AS = "stored_as";

  /** What the study decides itself. */
  private static final Set<String> DECIDED =
      Set.of(
          "output_dir",
          "max_steps",
          "num_train_epochs",
          "eval_steps",
          "save_steps",
          "save_total_limit",
          "logging_steps",
          "sample_prompts");

  MethodSpec {
    training = training.deepCopy();
  }

  /**
   * Reads an entry of `methods`.
   *
   * @param common keys of every method, which the entry's replace
   */
  static MethodSpec read(StudyYaml entry, ObjectNode common) {
    String name = entry.text(NAME);
    String where = entry.where() + " (" + name + ")";
    ObjectNode own = StudyYaml.canonical(entry.tree());
    own.remove(List.of(NAME, STORED_AS));
    for (ObjectNode keys : List.of(common, own)) {
      for (String key : (Iterable<String>) keys::fieldNames) {
        if (DECIDED.contains(key)) {
          throw new InputException(where + ": " + key + " is decided by the study; remove it");
        }
      }
    }
    ObjectNode training = common.deepCopy();
    training.setAll(own);
    DType storedAs =
        switch (entry.text(STORED_AS, "")) {
          case "" -> null;
          case "float32" -> DType.F32;
          case "float16" -> DType.F16;
          case "bfloat16" -> DType.BF16;
          default -> throw entry.wrong(STORED_AS, "float32, float16 or bfloat16");
        };
    return new MethodSpec(name, storedAs, training, where);
  }

  /** Back from what {@link #toJson} wrote. */
  static MethodSpec of(ObjectNode json) {
    String stored = json.path(STORED_AS).asText();
    return new MethodSpec(
        json.path(NAME).asText(),
        stored.isEmpty() ? null : DType.valueOf(stored),
        (ObjectNode) json.path("training"),
        json.path("where").asText());
  }

  ObjectNode toJson() {
    ObjectNode json = Json.newObject().put(NAME, name);
    json.put(STORED_AS, storedAs == null ? "" : storedAs.name()).put("where", where);
    json.set("training", training);
    return json;
  }

  /** A directory's name: "qlora-nf4-double-quantization". */
  String slug() {
    return ChildTask.directoryName(name);
  }

  /**
   * The training of this method.
   *
   * @param model the base's directory
   * @param rate learning rate, or null for the configuration's own
   * @param evalSteps steps between evaluations and checkpoints; 0 for neither
   */
  TrainConfig trainConfig(
      Path model, Path output, @Nullable Double rate, int steps, int evalSteps) {
    ObjectNode keys = training.deepCopy();
    keys.put("model", model.toString()).put("output_dir", output.toString());
    keys.put("max_steps", steps).put("eval_steps", evalSteps).put("save_steps", evalSteps);
    keys.put("save_total_limit", 1).put("logging_steps", 1);
    if (rate != null) {
      keys.put("learning_rate", rate);
    }
    return TrainConfigReader.parse(StudyYaml.write(keys), where, List.of());
  }

  /** The same without a file of held-out examples: they must not choose a learning rate. */
  MethodSpec withoutEvalFile() {
    ObjectNode keys = training.deepCopy();
    keys.remove("eval_file");
    return new MethodSpec(name, storedAs, keys, where);
  }
}
