// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.lora;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.model.WeightNames.Module;
import org.qlora4j.tests.support.FixtureFiles;

/**
 * Which layers get an adapter. What each rule chooses on the Llama of two layers was taken from
 * PEFT 0.21 with the same options.
 */
class TargetModulesTest {

  private static List<Module> linears(String model) {
    return WeightNames.of(ModelConfig.read(FixtureFiles.reference(model))).linears();
  }

  private static List<String> select(String model, TargetModules targets) {
    return targets.select(linears(model), Module::path).stream().map(Module::path).toList();
  }

  /** The adapters that PEFT made with the same targets adapt the same modules. */
  @ParameterizedTest
  @CsvSource({
    "models/llama,training/llama_nf4_f32/adapter_final",
    "models/neox_polyglot,training/neox_nf4_f32/adapter_final",
    "models/llama,merge/rslora_r4_qv_only/adapter"
  })
  void areThoseOfPeft(String model, String adapter) {
    try (PeftAdapterFile file = PeftAdapterFile.open(FixtureFiles.reference(adapter))) {
      TargetModules targets = file.config().lora().targets();
      assertEquals(file.pairs().keySet(), Set.copyOf(select(model, targets)));
      for (Module target : targets.select(linears(model), Module::path)) {
        PeftAdapterFile.Pair pair = Objects.requireNonNull(file.find(target.path()));
        assertEquals(List.of(pair.out(), pair.in()), target.shape());
      }
    }
  }

  @Test
  void names() {
    String neox = "models/neox_polyglot";
    assertEquals(8, select(neox, TargetModules.of(List.of())).size());
    assertEquals(
        linears(neox).stream().map(Module::path).toList(),
        select(neox, TargetModules.of(List.of("all-linear"))));
    assertEquals(
        List.of("gpt_neox.layers.0.attention.dense", "gpt_neox.layers.1.attention.dense"),
        select(neox, TargetModules.of(List.of("dense"))),
        "a name is the whole last part: not dense_h_to_4h");
    assertEquals(1, select(neox, TargetModules.of(List.of("layers.1.mlp.dense_4h_to_h"))).size());
    assertRefused(
        () -> select(neox, TargetModules.of(List.of("q_proj"))),
        "lora_target_modules",
        "'q_proj'",
        "query_key_value",
        "dense_4h_to_h");
    assertRefused(
        () -> select(neox, TargetModules.of(List.of("query_key_valu"))),
        "did you mean query_key_value?");
    assertRefused(() -> select(neox, TargetModules.of(List.of("embed_out"))), "'embed_out'");
  }

  private static TargetModules rule(
      List<String> names,
      @Nullable String expression,
      List<String> exclude,
      @Nullable String excludeExpression,
      List<Integer> layers,
      List<String> pattern) {
    return new TargetModules(names, expression, exclude, excludeExpression, layers, pattern);
  }

  private static TargetModules expression(String expression) {
    return rule(List.of(), expression, List.of(), null, List.of(), List.of());
  }

  @Test
  void expressionsMatchWholePaths() {
    String llama = "models/llama";
    assertEquals(
        List.of("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"),
        select(llama, expression("model\\.layers\\.1\\.self_attn\\.(q|v)_proj")));
    assertEquals(4, select(llama, expression(".*\\.(q|v)_proj")).size());
    assertEquals(2, select(llama, expression("(?P<front>.*)\\.down_proj\\Z")).size());
    assertRefused(() -> select(llama, expression("q_proj")), "'q_proj'", "model.layers.0");
    assertRefused(() -> expression("("), "regular expression", "'('");
  }

  @Test
  @Timeout(20)
  void anExpressionThatTakesForEverIsRefused() {
    assertRefused(
        () -> select("models/llama", expression(".*.*.*.*.*.*.*.*.*.*!")), "takes too long");
  }

  @Test
  void excludedLayersAndLayerNumbers() {
    String llama = "models/llama";
    List<String> qv = List.of("q_proj", "v_proj");
    assertEquals(
        List.of("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"),
        select(llama, rule(qv, null, List.of(), null, List.of(0), List.of())));
    assertEquals(
        List.of("model.layers.1.self_attn.q_proj"),
        select(llama, rule(qv, null, List.of("v_proj"), null, List.of(1), List.of("layers"))));
    assertEquals(
        12,
        select(
                llama,
                rule(List.of(), null, List.of("self_attn.o_proj"), null, List.of(), List.of()))
            .size());
    assertEquals(
        6,
        select(llama, rule(List.of(), null, List.of(), ".*self_attn.*", List.of(), List.of()))
            .size());
    assertRefused(
        () -> select(llama, rule(qv, null, List.of(), null, List.of(1), List.of("blocks"))),
        "in the layers [1]");
    assertRefused(
        () -> rule(List.of(), ".*q_proj", List.of(), null, List.of(1), List.of()),
        "layers_to_transform");
  }

  @Test
  void ranksAndAlphasByPattern() {
    Map<String, Integer> ranks = new LinkedHashMap<>();
    ranks.put("layers.0.self_attn.q_proj", 2);
    ranks.put("(q|v)_proj", 4);
    LoraConfig config =
        new LoraConfig(
            8,
            16,
            0,
            true,
            TargetModules.of(List.of()),
            ranks,
            Map.of("v_proj", 3.0, "proj", 99.0),
            false,
            LoraConfig.Bias.NONE,
            List.of("o_proj"),
            LoraInit.DEFAULT);
    String layer = "model.layers.0.self_attn.";
    assertEquals(2, config.rank(layer + "q_proj"), "the first key that fits");
    assertEquals(4, config.rank("model.layers.1.self_attn.q_proj"));
    assertEquals(4, config.rank(layer + "v_proj"));
    assertEquals(8, config.rank(layer + "k_proj"));
    assertEquals(3.0, config.alpha(layer + "v_proj"));
    assertEquals(16.0, config.alpha(layer + "q_proj"), "a key is whole components");
    assertEquals((float) (3 / Math.sqrt(4)), config.scaling(layer + "v_proj"));
    assertFalse(config.targets(layer + "o_proj"), "what is trained in full has no adapter");
    assertTrue(config.saves(layer + "o_proj"));
  }
}
