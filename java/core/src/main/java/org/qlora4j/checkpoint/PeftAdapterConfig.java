// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * The part of PEFT's {@code adapter_config.json} that a plain LoRA adapter needs. Options that
 * would change what the adapter computes and are not supported are refused by name when a file is
 * read.
 *
 * @param rank r, at least 1
 * @param alpha lora_alpha
 * @param dropout lora_dropout, used in training only
 * @param rslora whether s is alpha / sqrt(r) instead of alpha / r
 * @param targetModules names of the adapted linears
 * @param baseModel base_model_name_or_path, or null
 */
public record PeftAdapterConfig(
    int rank,
    double alpha,
    double dropout,
    boolean rslora,
    List<String> targetModules,
    @Nullable String baseModel) {

  private static final int MAX_RANK = 1 << 16;

  /** Options that say nothing about what the adapter computes once its tensors are given. */
  private static final Set<String> WITHOUT_EFFECT =
      Set.of(
          "auto_mapping",
          "base_model_name_or_path",
          "ensure_weight_tying",
          "eva_config",
          "exclude_modules",
          "inference_mode",
          "layers_pattern",
          "layers_to_transform",
          "lora_alpha",
          "lora_dropout",
          "lora_ga_config",
          "megatron_core",
          "peft_type",
          "peft_version",
          "qalora_group_size",
          "r",
          "revision",
          "runtime_config",
          "target_modules",
          "task_type",
          "use_rslora");

  public PeftAdapterConfig {
    targetModules = List.copyOf(targetModules);
  }

  /** Reads and checks an adapter_config.json. */
  static PeftAdapterConfig read(Path file) {
    return parse(Json.readObject(file, 16 << 20), file);
  }

  /** Checks the content of an adapter_config.json; {@code file} says in messages where it is. */
  public static PeftAdapterConfig parse(ObjectNode json, Path file) {
    String type = json.path("peft_type").asText("");
    if (!type.equals("LORA")) {
      throw new InputException(file + ": peft_type: expected LORA, found " + Text.quote(type));
    }
    for (Map.Entry<String, JsonNode> entry : json.properties()) {
      checkOption(file, entry.getKey(), entry.getValue());
    }
    JsonNode r = json.path("r");
    if (!r.isInt() || r.intValue() < 1 || r.intValue() > MAX_RANK) {
      throw new InputException(
          file + ": r: expected an integer of 1 to " + MAX_RANK + ", found " + Json.kind(r));
    }
    double alpha = number(file, json, "lora_alpha", 8);
    if (!(alpha > 0)) {
      throw new InputException(file + ": lora_alpha: expected a number above 0, found " + alpha);
    }
    double dropout = number(file, json, "lora_dropout", 0);
    if (!(dropout >= 0 && dropout < 1)) {
      throw new InputException(
          file + ": lora_dropout: expected a number from 0 to below 1, found " + dropout);
    }
    return new PeftAdapterConfig(
        r.intValue(),
        alpha,
        dropout,
        json.path("use_rslora").asBoolean(false),
        names(file, json.path("target_modules")),
        json.path("base_model_name_or_path").textValue());
  }

  private static void checkOption(Path file, String key, JsonNode value) {
    boolean plain =
        switch (key) {
          case "bias" -> value.asText().equals("none");
          case "init_lora_weights" ->
              // PiSSA, OLoRA, CorDA and LoftQ change the base's weights, so their adapter does not
              // fit the original base.
              value.isBoolean()
                  || value.isNull()
                  || Set.of("gaussian", "eva", "orthogonal").contains(value.asText());
          default -> WITHOUT_EFFECT.contains(key) || neutral(value);
        };
    if (!plain) {
      throw new InputException(
          file
              + ": "
              + Text.quote(key)
              + ": expected it unset, found "
              + Text.quote(Json.compact(value))
              + "; this option is not supported");
    }
  }

  private static boolean neutral(JsonNode value) {
    return value.isNull()
        || (value.isBoolean() && !value.booleanValue())
        || (value.isContainerNode() && value.isEmpty());
  }

  private static double number(Path file, ObjectNode json, String key, double otherwise) {
    JsonNode value = json.path(key);
    if (value.isMissingNode() || value.isNull()) {
      return otherwise;
    }
    if (!value.isNumber() || !Double.isFinite(value.doubleValue())) {
      throw new InputException(
          file + ": " + key + ": expected a number, found " + Json.kind(value));
    }
    return value.doubleValue();
  }

  private static List<String> names(Path file, JsonNode value) {
    List<String> names = new ArrayList<>();
    if (value.isTextual()) {
      // A regular expression or "all-linear"; the tensors say which modules it meant.
      names.add(value.textValue());
    } else if (value.isArray()) {
      for (JsonNode name : value) {
        if (!name.isTextual()) {
          throw new InputException(
              file + ": target_modules: expected names, found " + Json.kind(name));
        }
        names.add(name.textValue());
      }
    } else if (!value.isMissingNode() && !value.isNull()) {
      throw new InputException(
          file + ": target_modules: expected a list of names, found " + Json.kind(value));
    }
    return names;
  }

  /** The file's content as PEFT 0.21 writes it: every option it knows, keys sorted. */
  String toJson() {
    ObjectNode json = Json.newObject();
    json.putNull("alora_invocation_tokens");
    json.putObject("alpha_pattern");
    json.putNull("arrow_config");
    json.putNull("auto_mapping");
    json.put("base_model_name_or_path", baseModel);
    json.put("bias", "none");
    json.putNull("corda_config");
    json.put("ensure_weight_tying", false);
    json.putNull("eva_config");
    json.putNull("exclude_modules");
    json.put("fan_in_fan_out", false);
    json.put("inference_mode", true);
    json.put("init_lora_weights", true);
    json.putNull("layer_replication");
    json.putNull("layers_pattern");
    json.putNull("layers_to_transform");
    json.putObject("loftq_config");
    // PEFT declares lora_alpha as an integer; a fraction is written only where the user gave one.
    if (alpha == Math.rint(alpha) && Math.abs(alpha) < Integer.MAX_VALUE) {
      json.put("lora_alpha", (int) alpha);
    } else {
      json.put("lora_alpha", alpha);
    }
    json.put("lora_bias", false);
    json.put("lora_dropout", dropout);
    json.putNull("lora_ga_config");
    json.putNull("megatron_config");
    json.put("megatron_core", "megatron.core");
    json.putNull("modules_to_save");
    json.put("peft_type", "LORA");
    json.put("qalora_group_size", 16);
    json.put("r", rank);
    json.putObject("rank_pattern");
    json.putNull("revision");
    ArrayNode targets = json.putArray("target_modules");
    new TreeSet<>(targetModules).forEach(targets::add);
    json.putNull("target_parameters");
    json.put("task_type", "CAUSAL_LM");
    json.putNull("trainable_token_indices");
    json.put("use_dora", false);
    json.put("use_qalora", false);
    json.put("use_rslora", rslora);
    return Json.pretty(json);
  }
}
