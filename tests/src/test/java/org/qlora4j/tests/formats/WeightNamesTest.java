// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.model.WeightNames.Part;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.SmallModel;

/** The table of tensor names against real checkpoints, and against ones that do not fit. */
class WeightNamesTest {
  private final Path folder;

  WeightNamesTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "llama",
        "llama_bf16",
        "llama3_tied",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma2",
        "gemma3",
        "neox_polyglot",
        "neox_polyglot_bf16",
        "neox_sequential"
      })
  void realCheckpointsFit(String model) {
    check(FixtureFiles.reference("models/" + model));
  }

  @ParameterizedTest
  @ValueSource(strings = {"tinystories-656k-llama-hf", "stories260k-hf"})
  void tiedHeadsMayBeStoredUnderEitherName(String model) {
    check(FixtureFiles.data(model));
  }

  private static void check(Path directory) {
    WeightNames names = WeightNames.of(ModelConfig.read(directory));
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
      names.check(checkpoint);
      long elements = checkpoint.tensors().stream().mapToLong(TensorSource::elements).sum();
      assertEquals(elements, names.parameters());
    }
  }

  /**
   * Published counts: Llama 2 7B, Llama 3 8B, Mistral 7B, Qwen2.5 0.5B, Polyglot-Ko 12.8B (a
   * notebook's count in 4 bits, 6,608,701,440 with its adapter).
   */
  @ParameterizedTest
  @CsvSource({
    "hf-configs/llama-2-7b-hf.config.json,6738415616",
    "hf-configs/llama-3-8b.config.json,8030261248",
    "hf-configs/mistral-7b-v0.1.config.json,7241732096",
    "hf-configs/qwen2.5-0.5b-instruct.config.json,494032768",
    "polyglot-ko-configs/polyglot-ko-12.8b.config.json,12893603840"
  })
  void parametersOfPublishedModels(String file, long parameters) {
    assertEquals(
        parameters, WeightNames.of(ModelConfig.readFile(FixtureFiles.data(file))).parameters());
  }

  /** Published counts too: Qwen3 0.6B, Phi-3 mini, Gemma 2 2B and Gemma 3 1B. */
  @ParameterizedTest
  @CsvSource({
    "qwen3, 151936, 1024, 28, 16, 8, 128, 3072, true, 596049920",
    "phi3, 32064, 3072, 32, 32, 32, 96, 8192, false, 3821079552",
    "gemma2, 256000, 2304, 26, 8, 4, 256, 9216, true, 2614341888",
    "gemma3_text, 262144, 1152, 26, 4, 1, 256, 6912, true, 999885952"
  })
  void parametersOfPublishedShapes(
      String type,
      int vocab,
      int hidden,
      int layers,
      int heads,
      int kvHeads,
      int headDim,
      int ffn,
      boolean tied,
      long parameters) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("model_type", type).put("vocab_size", vocab).put("hidden_size", hidden);
    json.put("num_hidden_layers", layers).put("num_attention_heads", heads);
    json.put("num_key_value_heads", kvHeads).put("head_dim", headDim);
    json.put("intermediate_size", ffn).put("tie_word_embeddings", tied);
    assertEquals(parameters, WeightNames.of(ModelConfig.parse(json, type)).parameters());
  }

  private static List<WeightNames.Module> select(WeightNames names, String... targets) {
    return TargetModules.of(List.of(targets)).select(names.linears(), WeightNames.Module::path);
  }

  /** PEFT sees Phi-3's fused modules, so targets and adapters are theirs. */
  @Test
  void fusedModulesAreTargets() {
    WeightNames names = WeightNames.of(ModelConfig.read(FixtureFiles.reference("models/phi3")));
    assertEquals(
        List.of("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
        names.linears().stream().limit(4).map(WeightNames.Module::shortName).toList());
    assertEquals(8, select(names, "all-linear").size());
    List<WeightNames.Module> fused = select(names, "gate_up_proj", "qkv_proj");
    assertEquals(
        List.of("model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.gate_up_proj"),
        fused.stream().limit(2).map(WeightNames.Module::path).toList());
    assertEquals(List.of(128L, 64L), fused.get(0).shape());
    assertEquals(List.of(256L, 64L), fused.get(1).shape());
    assertRefused(() -> select(names, "q_proj"), "lora_target_modules", "'q_proj'", "qkv_proj");
  }

  /** A copy of a small checkpoint with tensors changed, dropped or added. */
  private Path changed(Map<String, long[]> shapes, Map<String, StoredType> types)
      throws IOException {
    Path model = folder.resolve("base");
    SmallModel.write(
        model, Files.readString(FixtureFiles.shape("llama").resolve("config.json")), 1);
    Files.copy(
        model.resolve("config.json"),
        folder.resolve("config.json"),
        StandardCopyOption.REPLACE_EXISTING);
    Map<String, long[]> all = new LinkedHashMap<>();
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      checkpoint.tensors().forEach(tensor -> all.put(tensor.name(), tensor.shape()));
    }
    all.putAll(shapes);
    all.values().removeIf(shape -> shape.length == 1 && shape[0] == -1);
    try (SafetensorsWriter writer = SafetensorsWriter.create(folder.resolve("model.safetensors"))) {
      all.forEach(
          (name, shape) -> writer.declare(name, types.getOrDefault(name, StoredType.F32), shape));
      for (Map.Entry<String, long[]> tensor : all.entrySet()) {
        long bytes = types.getOrDefault(tensor.getKey(), StoredType.F32).bits() / 8;
        for (long dimension : tensor.getValue()) {
          bytes *= dimension;
        }
        writer.write(tensor.getKey(), ByteBuffer.allocate((int) bytes));
      }
      writer.commit();
    }
    return folder;
  }

  private void refused(Map<String, long[]> shapes, Map<String, StoredType> types, String... parts)
      throws IOException {
    Path directory = changed(shapes, types);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
      WeightNames names = WeightNames.of(ModelConfig.read(directory));
      assertRefused(() -> names.check(checkpoint), parts);
    }
  }

  @Test
  void checkpointsThatDoNotFitTheConfigAreRefused() throws IOException {
    String q = "model.layers.1.self_attn.q_proj.weight";
    long[] none = {-1};
    check(changed(Map.of(), Map.of()));
    refused(
        Map.of(q, new long[] {64, 32}),
        Map.of(),
        "'" + q + "'",
        "[64, 64]",
        "config.json",
        "[64, 32]");
    refused(Map.of(q, new long[] {64 * 64}), Map.of(), "'" + q + "'", "[4096]");
    refused(
        Map.of("model.embed_tokens.weight", new long[] {289, 64}),
        Map.of(),
        "[288, 64]",
        "[289, 64]");
    refused(Map.of(q, none), Map.of(), "'" + q + "'", "found none");
    refused(Map.of("lm_head.weight", none), Map.of(), "lm_head.weight", "tie_word_embeddings");
    refused(Map.of(), Map.of(q, StoredType.F64), "'" + q + "'", "F64");
    refused(
        Map.of("model.layers.2.mlp.up_proj.weight", new long[] {128, 64}),
        Map.of(),
        "layers.2",
        "no place");
    refused(
        Map.of("model.layers.0.self_attn.q_proj.bias", new long[] {64}),
        Map.of(),
        "q_proj.bias",
        "no place");
    fits(changed(Map.of("model.layers.0.self_attn.rotary_emb.inv_freq", new long[] {8}), Map.of()));
  }

  private static void fits(Path directory) {
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
      WeightNames.of(ModelConfig.read(directory)).check(checkpoint);
    }
  }

  @Test
  void theTableKnowsWhatEachArchitectureHas() {
    WeightNames llama = WeightNames.of(ModelConfig.read(FixtureFiles.shape("llama")));
    WeightNames neox = WeightNames.of(ModelConfig.read(FixtureFiles.shape("neox_polyglot")));
    assertTrue(llama.has(Part.GATE) && !llama.has(Part.QUERY_KEY_VALUE));
    assertTrue(neox.has(Part.QUERY_KEY_VALUE) && !neox.has(Part.GATE) && !neox.has(Part.QUERY));
    assertEquals("embed_out", neox.module(Part.HEAD, -1).path());
    assertTrue(neox.module(Part.FINAL_NORM, -1).hasBias());
  }
}
