// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.TargetModules;

/**
 * PEFT's {@code adapter_config.json} of a LoRA adapter. Options that would change what the adapter
 * computes and are not supported are refused by name when a file is read.
 *
 * @param lora what the adapter is
 * @param baseModel base_model_name_or_path, or null
 */
public record PeftAdapterConfig(LoraConfig lora, @Nullable String baseModel) {

  private static final int MAX_RANK = 1 << 16;

  /** Options that say nothing about what the adapter computes once its tensors are given. */
  private static final Set<String> WITHOUT_EFFECT =
      Set.of(
          "auto_mapping",
          "base_model_name_or_path",
          "eva_config",
          "inference_mode",
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
          "use_dora",
          "use_rslora");

  /** Options that are read one by one, and refused there. */
  private static final Set<String> READ =
      Set.of(
          "alpha_pattern",
          "bias",
          "ensure_weight_tying",
          "exclude_modules",
          "init_lora_weights",
          "layers_pattern",
          "layers_to_transform",
          "modules_to_save",
          "rank_pattern");

  /** A plain adapter of the linears with these names; none for all of them. */
  public PeftAdapterConfig(
      int rank,
      double alpha,
      double dropout,
      boolean rslora,
      List<String> targetModules,
      @Nullable String baseModel) {
    this(new LoraConfig(rank, alpha, dropout, rslora, targetModules), baseModel);
  }

  /** r, where no pattern says otherwise. */
  public int rank() {
    return lora.rank();
  }

  /** lora_alpha, where no pattern says otherwise. */
  public double alpha() {
    return lora.alpha();
  }

  /** lora_dropout, used in training only. */
  public double dropout() {
    return lora.dropout();
  }

  /** Whether s is alpha / sqrt(r) instead of alpha / r. */
  public boolean rslora() {
    return lora.rsLora();
  }

  /** Names of the adapted linears; empty where an expression, or all of them, is meant. */
  public List<String> targetModules() {
    return lora.targets().names();
  }

  /**
   * The options of an adapter directory.
   *
   * @throws InputException when there are none, or one is not supported
   */
  public static PeftAdapterConfig readFrom(Path directory) {
    Path file = directory.resolve(PeftAdapterFile.CONFIG_FILE);
    if (!Files.isRegularFile(file)) {
      throw new InputException(
          directory
              + ": expected a PEFT adapter with "
              + PeftAdapterFile.CONFIG_FILE
              + ", found no such file");
    }
    return read(file);
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
    try {
      LoraConfig lora =
          new LoraConfig(
              r.intValue(),
              alpha,
              dropout,
              flag(file, json, "use_rslora"),
              targets(file, json),
              ranks(file, json.path("rank_pattern")),
              alphas(file, json.path("alpha_pattern")),
              flag(file, json, "use_dora"),
              bias(file, json.path("bias")),
              names(file, "modules_to_save", json.path("modules_to_save")),
              init(file, json.path("init_lora_weights")));
      if (flag(file, json, "ensure_weight_tying") && !lora.modulesToSave().isEmpty()) {
        throw unsupported(
            file,
            "ensure_weight_tying",
            json.path("ensure_weight_tying"),
            "an embedding and a head that are trained as one are not supported");
      }
      return new PeftAdapterConfig(lora, json.path("base_model_name_or_path").textValue());
    } catch (InputException e) {
      // An expression that is none does not say where it stands.
      String message = String.valueOf(e.getMessage());
      throw message.startsWith(file.toString()) ? e : new InputException(file + ": " + message, e);
    }
  }

  private static void checkOption(Path file, String key, JsonNode value) {
    if (!WITHOUT_EFFECT.contains(key) && !READ.contains(key) && !neutral(value)) {
      throw unsupported(file, key, value, "this option is not supported");
    }
  }

  private static InputException unsupported(Path file, String key, JsonNode value, String why) {
    return new InputException(
        file
            + ": "
            + Text.quote(key)
            + ": expected it unset, found "
            + Text.quote(Json.compact(value))
            + "; "
            + why);
  }

  private static TargetModules targets(Path file, ObjectNode json) {
    JsonNode value = json.path("target_modules");
    boolean all = value.isTextual() && value.textValue().equalsIgnoreCase(TargetModules.ALL_LINEAR);
    JsonNode exclude = json.path("exclude_modules");
    return new TargetModules(
        value.isTextual() ? List.of() : names(file, "target_modules", value),
        value.isTextual() && !all ? value.textValue() : null,
        exclude.isTextual() ? List.of() : names(file, "exclude_modules", exclude),
        exclude.textValue(),
        layers(file, json.path("layers_to_transform")),
        names(file, "layers_pattern", json.path("layers_pattern")));
  }

  private static List<Integer> layers(Path file, JsonNode value) {
    List<Integer> layers = new ArrayList<>();
    if (value.isMissingNode() || value.isNull()) {
      return layers;
    }
    for (JsonNode layer : value.isArray() ? value : List.of(value)) {
      if (!layer.isInt() || layer.intValue() < 0) {
        throw new InputException(
            file + ": layers_to_transform: expected numbers of layers, found " + Json.kind(layer));
      }
      layers.add(layer.intValue());
    }
    return layers;
  }

  private static Map<String, Integer> ranks(Path file, JsonNode value) {
    Map<String, Integer> ranks = new LinkedHashMap<>();
    for (Map.Entry<String, JsonNode> entry : value.properties()) {
      JsonNode rank = entry.getValue();
      if (!rank.isInt() || rank.intValue() < 1 || rank.intValue() > MAX_RANK) {
        throw new InputException(
            file
                + ": rank_pattern: expected integers of 1 to "
                + MAX_RANK
                + ", found "
                + Json.kind(rank));
      }
      ranks.put(entry.getKey(), rank.intValue());
    }
    return ranks;
  }

  private static Map<String, Double> alphas(Path file, JsonNode value) {
    Map<String, Double> alphas = new LinkedHashMap<>();
    for (Map.Entry<String, JsonNode> entry : value.properties()) {
      double alpha = entry.getValue().isNumber() ? entry.getValue().doubleValue() : Double.NaN;
      if (!(alpha > 0) || !Double.isFinite(alpha)) {
        throw new InputException(
            file
                + ": alpha_pattern: expected numbers above 0, found "
                + Text.quote(Json.compact(entry.getValue())));
      }
      alphas.put(entry.getKey(), alpha);
    }
    return alphas;
  }

  private static LoraConfig.Bias bias(Path file, JsonNode value) {
    return switch (value.asText("none")) {
      case "none", "null", "" -> LoraConfig.Bias.NONE;
      case "all" -> LoraConfig.Bias.ALL;
      case "lora_only" -> LoraConfig.Bias.LORA_ONLY;
      default ->
          throw new InputException(
              file
                  + ": bias: expected none, all or lora_only, found "
                  + Text.quote(Json.compact(value)));
    };
  }

  private static LoraInit init(Path file, JsonNode value) {
    if (value.isMissingNode() || value.isNull()) {
      return LoraInit.DEFAULT;
    }
    LoraInit init = LoraInit.parse(value.asText());
    if (init != null && !init.fromWeights()) {
      return init;
    }
    // Their beginning changes nothing of the base.
    if (value.isTextual() && Set.of("eva", "orthogonal").contains(value.textValue())) {
      return LoraInit.DEFAULT;
    }
    throw unsupported(
        file,
        "init_lora_weights",
        value,
        "the adapter belongs to a base whose weights were changed before training, not to the"
            + " original; have PEFT convert it (save_pretrained with"
            + " path_initial_model_for_weight_conversion)");
  }

  private static boolean flag(Path file, ObjectNode json, String key) {
    JsonNode value = json.path(key);
    if (value.isMissingNode() || value.isNull()) {
      return false;
    }
    if (!value.isBoolean()) {
      throw new InputException(
          file + ": " + key + ": expected true or false, found " + Json.kind(value));
    }
    return value.booleanValue();
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

  private static List<String> names(Path file, String key, JsonNode value) {
    List<String> names = new ArrayList<>();
    if (value.isTextual()) {
      names.add(value.textValue());
    } else if (value.isArray()) {
      for (JsonNode name : value) {
        if (!name.isTextual() || name.textValue().isEmpty()) {
          throw new InputException(
              file + ": " + key + ": expected names, found " + Json.kind(name));
        }
        names.add(name.textValue());
      }
    } else if (!value.isMissingNode() && !value.isNull()) {
      throw new InputException(
          file + ": " + key + ": expected a list of names, found " + Json.kind(value));
    }
    return names;
  }

  /** The file's content as PEFT 0.21 writes it: every option it knows, keys sorted. */
  String toJson() {
    ObjectNode json = Json.newObject();
    json.putNull("alora_invocation_tokens");
    ObjectNode alphas = json.putObject("alpha_pattern");
    lora.alphaPattern().forEach((key, value) -> putAlpha(alphas, key, value));
    json.putNull("arrow_config");
    json.putNull("auto_mapping");
    json.put("base_model_name_or_path", baseModel);
    json.put("bias", lora.bias().name().toLowerCase(Locale.ROOT));
    json.putNull("corda_config");
    json.put("ensure_weight_tying", false);
    json.putNull("eva_config");
    TargetModules chosen = lora.targets();
    if (chosen.excludeExpression() != null) {
      json.put("exclude_modules", chosen.excludeExpression());
    } else {
      putNames(json, "exclude_modules", chosen.exclude());
    }
    json.put("fan_in_fan_out", false);
    json.put("inference_mode", true);
    switch (lora.init().kind()) {
      // The base is the plain quantized one, so that a and b are all there is to LoftQ.
      case KAIMING, LOFTQ -> json.put("init_lora_weights", true);
      case UNIFORM -> json.put("init_lora_weights", false);
      case GAUSSIAN, PISSA -> json.put("init_lora_weights", lora.init().toString());
    }
    json.putNull("layer_replication");
    putNames(json, "layers_pattern", chosen.layersPattern());
    if (chosen.layers().isEmpty()) {
      json.putNull("layers_to_transform");
    } else {
      chosen.layers().forEach(json.putArray("layers_to_transform")::add);
    }
    json.putObject("loftq_config");
    putAlpha(json, "lora_alpha", lora.alpha());
    json.put("lora_bias", false);
    json.put("lora_dropout", lora.dropout());
    json.putNull("lora_ga_config");
    json.putNull("megatron_config");
    json.put("megatron_core", "megatron.core");
    putNames(json, "modules_to_save", lora.modulesToSave());
    json.put("peft_type", "LORA");
    json.put("qalora_group_size", 16);
    json.put("r", lora.rank());
    lora.rankPattern().forEach(json.putObject("rank_pattern")::put);
    json.putNull("revision");
    if (chosen.expression() != null) {
      json.put("target_modules", chosen.expression());
    } else {
      new TreeSet<>(chosen.names()).forEach(json.putArray("target_modules")::add);
    }
    json.putNull("target_parameters");
    json.put("task_type", "CAUSAL_LM");
    json.putNull("trainable_token_indices");
    json.put("use_dora", lora.dora());
    json.put("use_qalora", false);
    json.put("use_rslora", lora.rsLora());
    return Json.pretty(json);
  }

  /** PEFT declares alphas as integers; a fraction is written only where there is one. */
  private static void putAlpha(ObjectNode json, String key, double alpha) {
    if (alpha == Math.rint(alpha) && Math.abs(alpha) < Integer.MAX_VALUE) {
      json.put(key, (int) alpha);
    } else {
      json.put(key, alpha);
    }
  }

  private static void putNames(ObjectNode json, String key, List<String> names) {
    if (names.isEmpty()) {
      json.putNull(key);
    } else {
      names.forEach(json.putArray(key)::add);
    }
  }
}
