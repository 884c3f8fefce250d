// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.PeftAdapterConfig;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.common.Json;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.tests.support.FixtureFiles;

/** LoRA adapters in PEFT's format. */
class PeftAdapterFileTest {
  private static final String MODULE = "model.layers.0.self_attn.q_proj";

  private final Path folder;

  PeftAdapterFileTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private static final PeftAdapterConfig CONFIG =
      new PeftAdapterConfig(2, 8, 0.05, false, List.of("q_proj", "k_proj"), "some/base");

  private void writeAdapter() {
    PeftAdapterFile.write(
        folder,
        CONFIG,
        List.of(
            new PeftAdapterFile.Matrices(
                MODULE,
                3,
                4,
                () -> new float[] {1, 2, 3, 4, 5, 6},
                () -> new float[] {1, 2, 3, 4, 5, 6, 7, 8})));
  }

  @Test
  void readsBackWhatWasWritten() {
    writeAdapter();
    try (PeftAdapterFile adapter = PeftAdapterFile.open(folder)) {
      assertEquals(2, adapter.config().rank());
      assertEquals(8.0, adapter.config().alpha());
      assertEquals(0.05, adapter.config().dropout());
      assertEquals(List.of("k_proj", "q_proj"), adapter.config().targetModules());
      assertEquals("some/base", adapter.config().baseModel());
      PeftAdapterFile.Pair pair = Objects.requireNonNull(adapter.find(MODULE));
      assertEquals(Map.of(MODULE, pair), adapter.pairs());
      assertEquals(3, pair.in());
      assertEquals(4, pair.out());
      assertArrayEquals(new float[] {1, 2, 3, 4, 5, 6}, pair.a().toFloats());
      assertArrayEquals(new float[] {1, 2, 3, 4, 5, 6, 7, 8}, pair.b().toFloats());
    }
    try (SafetensorsFile file = SafetensorsFile.open(folder.resolve("adapter_model.safetensors"))) {
      assertEquals(Map.of("format", "pt"), file.metadata());
      assertEquals(
          List.of(
              "base_model.model." + MODULE + ".lora_A.weight",
              "base_model.model." + MODULE + ".lora_B.weight"),
          List.copyOf(file.names()));
    }
  }

  /**
   * The options PEFT itself wrote for a plain adapter, apart from the values that differ between
   * the two.
   */
  @Test
  void writesEveryOptionThatPeftWrites() throws IOException {
    ObjectNode peft =
        Json.readObject(
            FixtureFiles.reference("training/llama_nf4_f32/adapter_final/adapter_config.json"),
            1 << 20);
    writeAdapter();
    ObjectNode ours = Json.readObject(folder.resolve("adapter_config.json"), 1 << 20);
    List<String> own =
        List.of(
            "base_model_name_or_path",
            "lora_alpha",
            "lora_dropout",
            "r",
            "target_modules",
            "peft_version");
    // Options of methods that came with PEFT 0.20 and 0.21; null there, and unknown to PEFT 0.19.
    List<String> recent =
        List.of("kasa_config", "monteclora_config", "velora_config", "use_bdlora");
    for (Map.Entry<String, JsonNode> option : peft.properties()) {
      if (!own.contains(option.getKey()) && !recent.contains(option.getKey())) {
        assertEquals(option.getValue(), ours.get(option.getKey()), option.getKey());
      }
    }
    List<String> names = new ArrayList<>();
    ours.fieldNames().forEachRemaining(names::add);
    assertEquals(names.stream().sorted().toList(), names, "sorted as PEFT sorts them");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "training/llama_nf4_f32/adapter_final",
        "training/neox_nf4_bf16/adapter_final",
        "merge/lora/adapter",
        "merge/rslora_r4_qv_only/adapter"
      })
  void readsAdaptersOfPeft(String path) {
    try (PeftAdapterFile adapter = PeftAdapterFile.open(FixtureFiles.reference(path))) {
      assertTrue(adapter.pairs().size() >= 4);
      for (PeftAdapterFile.Pair pair : adapter.pairs().values()) {
        assertEquals(adapter.config().rank() * pair.in(), pair.a().toFloats().length);
        assertTrue(
            adapter.config().targetModules().stream()
                .anyMatch(name -> pair.module().endsWith("." + name)),
            pair.module());
      }
      if (path.contains("rslora")) {
        assertTrue(adapter.config().rslora());
      }
    }
  }

  @Test
  void readsOptionsOfOtherToolsAndVersions() throws IOException {
    writeAdapter();
    for (String name : new String[] {"qwen2.5-1.5b-bnb4bit", "qwen2.5-7b-bnb4bit"}) {
      Path options =
          FixtureFiles.data("peft-adapter-configs-qlora/" + name + ".adapter_config.json");
      ObjectNode json = Json.readObject(options, 1 << 20);
      json.put("r", 2);
      Files.writeString(folder.resolve("adapter_config.json"), Json.pretty(json));
      PeftAdapterFile.open(folder).close();
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "use_dora|1",
        "bias|\"some\"",
        "lora_bias|true",
        "fan_in_fan_out|true",
        "rank_pattern|{\"q_proj\":0}",
        "rank_pattern|{\"(\":4}",
        "alpha_pattern|{\"q_proj\":\"4\"}",
        "modules_to_save|[7]",
        "exclude_modules|{\"a\":1}",
        "layers_to_transform|[-1]",
        "layers_pattern|[\"layers\"]",
        "init_lora_weights|\"pissa\"",
        "init_lora_weights|\"pissa_niter_4\"",
        "layer_replication|[[0,2]]",
        "target_parameters|[\"experts\"]",
        "trainable_token_indices|[1,2]",
        "use_qalora|true",
        "some_future_method|{\"a\":1}",
        "peft_type|\"IA3\"",
        "r|0",
        "r|\"8\"",
        "lora_alpha|\"16\"",
        "target_modules|[1]",
      })
  void refusesWhatItWouldComputeWrongly(String option, String value) throws IOException {
    writeAdapter();
    ObjectNode json = Json.readObject(folder.resolve("adapter_config.json"), 1 << 20);
    json.set(option, Json.value(value, "test"));
    Files.writeString(folder.resolve("adapter_config.json"), Json.pretty(json));
    assertRefused(() -> PeftAdapterFile.open(folder), "adapter_config.json", option);
  }

  /** Tying alone says nothing of an adapter of linears; with a trained embedding it does. */
  @Test
  void refusesAnEmbeddingAndAHeadTrainedAsOne() throws IOException {
    writeAdapter();
    ObjectNode json = Json.readObject(folder.resolve("adapter_config.json"), 1 << 20);
    json.put("ensure_weight_tying", true);
    Files.writeString(folder.resolve("adapter_config.json"), Json.pretty(json));
    PeftAdapterFile.open(folder).close();
    json.putArray("modules_to_save").add("embed_tokens");
    Files.writeString(folder.resolve("adapter_config.json"), Json.pretty(json));
    assertRefused(() -> PeftAdapterFile.open(folder), "ensure_weight_tying");
  }

  @Test
  void readsDora() {
    try (PeftAdapterFile adapter =
        PeftAdapterFile.open(FixtureFiles.reference("merge/dora_qv_only/adapter"))) {
      assertTrue(adapter.config().lora().dora());
      for (PeftAdapterFile.Pair pair : adapter.pairs().values()) {
        assertEquals(pair.out(), Objects.requireNonNull(pair.magnitude()).elements());
      }
    }
  }

  /** Every option that decides what an adapter is, through a file and back. */
  @Test
  void writesAndReadsEveryOption() {
    LoraConfig lora =
        new LoraConfig(
            2,
            8.5,
            0.1,
            true,
            new TargetModules(
                List.of("q_proj", "up_proj"),
                null,
                List.of("o_proj"),
                null,
                List.of(0, 2),
                List.of("layers")),
            Map.of("q_proj", 4),
            Map.of("up_proj", 1.5),
            true,
            LoraConfig.Bias.LORA_ONLY,
            List.of("lm_head", "norm"),
            new LoraInit(LoraInit.Kind.GAUSSIAN, 0));
    assertEquals(lora, throughFile(lora));
    LoraConfig expressions =
        lora.withTargets(
            new TargetModules(
                List.of(), ".*\\.q_proj", List.of(), ".*\\.1\\..*", List.of(), List.of()));
    assertEquals(expressions, throughFile(expressions));
  }

  private LoraConfig throughFile(LoraConfig lora) {
    PeftAdapterFile.write(
        folder, new PeftAdapterConfig(lora, null), List.<PeftAdapterFile.Entry>of());
    return PeftAdapterConfig.readFrom(folder).lora();
  }

  @Test
  void refusesTensorsThatDoNotFit() {
    assertRefused(() -> PeftAdapterFile.open(folder), "adapter_config.json", "no such file");
    writeAdapter();
    replaceTensors("x.lora_A.weight", 2, 3, "x.lora_B.weight", 4, 3);
    assertRefused(() -> PeftAdapterFile.open(folder), "x.lora_B.weight", "[out, 2]", "[4, 3]");
    replaceTensors("x.lora_A.weight", 3, 2, "x.lora_B.weight", 4, 2);
    assertRefused(() -> PeftAdapterFile.open(folder), "x.lora_A.weight", "[2, in]", "[3, 2]");
    replaceTensors("x.lora_A.weight", 2, 3, "y.lora_B.weight", 4, 2);
    assertRefused(() -> PeftAdapterFile.open(folder), "found none of that name");
    replaceTensors("x.lora_A.weight", 2, 3, "x.lora_magnitude_vector", 4, 2);
    assertRefused(() -> PeftAdapterFile.open(folder), "found none of that name");
    replaceTensors("x.lora_embedding_A", 2, 3, "x.lora_embedding_B", 4, 2);
    assertRefused(() -> PeftAdapterFile.open(folder), "x.lora_embedding_A", "not supported");
  }

  /** A frozen weight belongs into an adapter only as the base of a module that has one. */
  @Test
  void refusesFrozenWeightsOfTheBlocks() {
    writeAdapter();
    for (String stray :
        List.of(
            "y.base_layer.weight",
            "model.layers.0.x.base_layer.weight",
            "x.weight",
            "model.layers.0.mlp.up_proj.weight",
            "embed_tokens.original_module.weight")) {
      try (SafetensorsWriter writer =
          SafetensorsWriter.create(folder.resolve("adapter_model.safetensors"))) {
        List<String> names =
            List.of(
                "x.lora_A.weight",
                "x.lora_B.weight",
                "model.layers.0.x.lora_A.weight",
                "model.layers.0.x.lora_B.weight",
                stray);
        for (String name : names) {
          writer.declare("base_model.model." + name, StoredType.F32, 2, 2);
        }
        names.forEach(name -> writer.write("base_model.model." + name, new float[4]));
        writer.commit();
      }
      assertRefused(() -> PeftAdapterFile.open(folder), stray, "not supported");
    }
  }

  private void replaceTensors(String a, long aRows, long aCols, String b, long bRows, long bCols) {
    try (SafetensorsWriter writer =
        SafetensorsWriter.create(folder.resolve("adapter_model.safetensors"))) {
      writer.declare("base_model.model." + a, StoredType.F32, aRows, aCols);
      writer.declare("base_model.model." + b, StoredType.F32, bRows, bCols);
      writer.write("base_model.model." + a, new float[(int) (aRows * aCols)]);
      writer.write("base_model.model." + b, new float[(int) (bRows * bCols)]);
      writer.commit();
    }
  }
}
