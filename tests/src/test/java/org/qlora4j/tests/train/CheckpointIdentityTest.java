// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.RecordComponent;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.Json;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelSettings;
import org.qlora4j.model.RopeScaling;
import org.qlora4j.model.RotaryConfig;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.train.TrainConfig;

/**
 * By what a checkpoint knows its run again. The texts are promised to stay: a test that pins one
 * must not be changed without a way to read those of earlier checkpoints.
 */
class CheckpointIdentityTest {

  /** Fields of the config that a checkpoint does not name, as {@link ModelSettings} says. */
  private static final Set<String> NOT_NAMED =
      Set.of("maxPositions", "bosId", "eosIds", "padId", "initializerRange", "dtype");

  private static final Map<String, String> LLAMA =
      Map.ofEntries(
          Map.entry("model_type", "llama"),
          Map.entry("vocab_size", "100"),
          Map.entry("hidden_size", "64"),
          Map.entry("num_hidden_layers", "2"),
          Map.entry("num_attention_heads", "4"),
          Map.entry("num_key_value_heads", "4"),
          Map.entry("head_dim", "16"),
          Map.entry("intermediate_size", "128"),
          Map.entry("norm_eps", "0.00001"),
          Map.entry("attention_scale", "0.25"),
          Map.entry("rope_theta", "10000"));

  private static ModelConfig config(String type, String more) {
    return ModelConfig.parse(
        Json.object(
            "{\"model_type\": \"%s\", \"vocab_size\": 100, \"hidden_size\": 64, ".formatted(type)
                + "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                + "\"intermediate_size\": 128, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000"
                + more
                + "}",
            "test"),
        "test");
  }

  private static Map<String, String> with(String... pairs) {
    Map<String, String> settings = new TreeMap<>(LLAMA);
    for (int i = 0; i < pairs.length; i += 2) {
      settings.put(pairs[i], pairs[i + 1]);
    }
    return settings;
  }

  @Test
  void aPlainModelIsNamedByItsShapeAlone() {
    assertEquals(LLAMA, ModelSettings.of(config("llama", "")));
    assertEquals(
        LLAMA,
        ModelSettings.of(
            config(
                "llama",
                ", \"max_position_embeddings\": 77, \"eos_token_id\": 9, \"dtype\": \"float16\","
                    + " \"initializer_range\": 0.5, \"attention_bias\": false")));
  }

  @Test
  void whatDiffersIsNamed() {
    assertEquals(
        with("tied_head", "true", "qkv_bias", "true", "attention_output_bias", "true"),
        ModelSettings.of(
            config("llama", ", \"tie_word_embeddings\": true, \"attention_bias\": true")));
    assertEquals(
        with("rope_scaling", "llama3 8 1 4 8192", "activation", "GELU_TANH"),
        ModelSettings.of(
            config(
                "llama",
                ", \"hidden_act\": \"gelu_new\", \"rope_scaling\": {\"rope_type\": \"llama3\","
                    + " \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4,"
                    + " \"original_max_position_embeddings\": 8192}")));
    assertEquals(
        with(
            "model_type", "phi3",
            "mlp", "GATED_FUSED",
            "qkv", "FUSED",
            // sqrt(1 + ln(64 / 16) / ln(16)).
            "rope_scaling", "longrope 16 1.224744871391589 1/1/1/1/1/1/1/1.5 2/2/2/2/2/2/2/2"),
        ModelSettings.of(
            config(
                "phi3",
                ", \"max_position_embeddings\": 64, \"original_max_position_embeddings\": 16,"
                    + " \"rope_scaling\": {\"type\": \"longrope\","
                    + " \"short_factor\": [1, 1, 1, 1, 1, 1, 1, 1.5],"
                    + " \"long_factor\": [2, 2, 2, 2, 2, 2, 2, 2]}")));
    assertEquals(
        with("model_type", "mistral", "sliding_window", "8"),
        ModelSettings.of(config("mistral", ", \"sliding_window\": 8, \"num_key_value_heads\": 4")));
    Map<String, String> gemma =
        ModelSettings.of(
            config(
                "gemma2",
                ", \"head_dim\": 16, \"query_pre_attn_scalar\": 5, \"sliding_window\": 8,"
                    + " \"attn_logit_softcapping\": 50, \"final_logit_softcapping\": 2.5,"
                    + " \"num_key_value_heads\": 4"));
    assertEquals(
        with(
            "model_type", "gemma2",
            "activation", "GELU_TANH",
            "norm", "RMS_NORM_UNIT_OFFSET",
            "output_norms", "true",
            // 1 / sqrt(5), in the nine digits that make it this f32.
            "attention_scale", "0.4472136",
            "attention_softcap", "50",
            "logit_softcap", "2.5",
            "embedding_scale", "8",
            "sliding_window", "8,0",
            "tied_head", "true"),
        gemma);
  }

  /** Whoever adds a field decides here whether checkpoints name it. */
  @Test
  void everyFieldOfTheConfigIsNamedOrLeftOut() {
    Set<String> fields = new TreeSet<>();
    for (RecordComponent field : ModelConfig.class.getRecordComponents()) {
      fields.add(field.getName());
    }
    assertTrue(fields.containsAll(NOT_NAMED), fields.toString());
    fields.removeAll(NOT_NAMED);
    assertEquals(
        new TreeSet<>(
            List.of(
                "architecture",
                "vocabSize",
                "hiddenSize",
                "layers",
                "heads",
                "kvHeads",
                "headDim",
                "ffnSize",
                "norm",
                "normEps",
                "queryKeyNorm",
                "outputNorms",
                "parallelResidual",
                "activation",
                "mlp",
                "qkv",
                "layerAttention",
                "attentionScale",
                "attentionSoftcap",
                "qkvBias",
                "attentionOutputBias",
                "mlpBias",
                "embeddingScale",
                "logitSoftcap",
                "tiedHead")),
        fields);
    assertEquals(List.of("window", "rotary"), components(ModelConfig.LayerAttention.class));
    assertEquals(List.of("dim", "theta", "scaling"), components(RotaryConfig.class));
  }

  /** Whoever adds a kind of scaling gives it a name and a test above. */
  @Test
  void everyKindOfScalingIsNamedWithAllItHas() {
    Map<String, List<String>> kinds = new TreeMap<>();
    for (Class<?> kind : RopeScaling.class.getPermittedSubclasses()) {
      kinds.put(kind.getSimpleName(), components(kind));
    }
    assertEquals(
        Map.of(
            "None",
            List.of(),
            "Linear",
            List.of("factor"),
            "Llama3",
            List.of("factor", "lowFreqFactor", "highFreqFactor", "originalMaxPositions"),
            "LongRope",
            List.of("shortFactors", "longFactors", "originalMaxPositions", "attentionFactor")),
        kinds);
  }

  private static List<String> components(Class<?> type) {
    return Arrays.stream(type.getRecordComponents()).map(RecordComponent::getName).toList();
  }

  /** Checkpoints hold these names of Java's: they may become more, but none may change. */
  @Test
  void theNamesOfKindsStay() {
    assertEquals(
        List.of("RMS_NORM", "RMS_NORM_UNIT_OFFSET", "LAYER_NORM"), names(ModelConfig.Norm.class));
    assertEquals(List.of("SILU", "GELU_ERF", "GELU_TANH"), names(ModelConfig.Activation.class));
    assertEquals(List.of("PLAIN", "GATED", "GATED_FUSED"), names(ModelConfig.Mlp.class));
    assertEquals(List.of("SEPARATE", "FUSED_PER_HEAD", "FUSED"), names(ModelConfig.Qkv.class));
    assertEquals(List.of("CHECKPOINT", "RANDOM"), names(TrainConfig.Init.class));
    assertEquals(List.of("FULL", "LORA", "QLORA"), names(TrainConfig.Method.class));
    assertEquals(List.of("BFLOAT16", "FLOAT32"), names(TrainConfig.Compute.class));
    assertEquals(List.of("FAST", "FLOAT32"), names(TrainConfig.LoraPrecision.class));
    assertEquals(List.of("NF4", "FP4"), names(TrainConfig.QuantType.class));
    assertEquals(List.of("INT8", "FP8"), names(TrainConfig.EightBit.class));
    assertEquals(
        List.of("CONSTANT", "CONSTANT_WITH_WARMUP", "LINEAR", "COSINE"),
        names(TrainConfig.Scheduler.class));
    assertEquals(List.of("NONE", "ALL", "LORA_ONLY"), names(LoraConfig.Bias.class));
    assertEquals(
        List.of("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "gpt_neox"),
        Arrays.stream(ModelConfig.Architecture.values())
            .map(ModelConfig.Architecture::modelType)
            .toList());
  }

  private static List<String> names(Class<? extends Enum<?>> type) {
    return Arrays.stream(type.getEnumConstants()).map(Enum::name).toList();
  }

  /** Real configs of every architecture, each with all that is named of it. */
  @Test
  void theFixturesAreNamedAsTheyWere() throws IOException {
    ObjectNode expected = resource("model_settings.json");
    Set<ModelConfig.Architecture> seen = EnumSet.noneOf(ModelConfig.Architecture.class);
    for (Map.Entry<String, JsonNode> each : expected.properties()) {
      Map<String, String> named = new TreeMap<>();
      each.getValue().properties().forEach(e -> named.put(e.getKey(), e.getValue().textValue()));
      ModelConfig config =
          ModelConfig.read(FixtureFiles.reference("models").resolve(each.getKey()));
      assertEquals(named, ModelSettings.of(config), each.getKey());
      seen.add(config.architecture());
    }
    assertEquals(EnumSet.allOf(ModelConfig.Architecture.class), seen);
  }

  /** Of a model and its run, with a checkpoint after the first of two steps. */
  private record Trained(Path model, Path config, Path state, Path adapter) {}

  private static Trained train(Path folder, String... more) throws IOException {
    Path model = Files.createDirectory(folder.resolve("model"));
    for (String file : List.of("config.json", "model.safetensors", "tokenizer.json")) {
      Files.copy(FixtureFiles.project("examples/model").resolve(file), model.resolve(file));
    }
    Path config =
        Files.writeString(
            folder.resolve("c.yaml"),
            """
            model: %s
            train_file: %s
            output_dir: %s
            sequence_length: 32
            max_steps: 2
            save_steps: 1
            """
                    .formatted(
                        model,
                        FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                        folder.resolve("out"))
                + String.join("\n", more));
    assertDone(run("train", config));
    return new Trained(
        model,
        config,
        folder.resolve("out/checkpoints/checkpoint-1/trainer_state.json"),
        folder.resolve("out/adapter/adapter_model.safetensors"));
  }

  @Test
  void anEarlierVersionsCheckpointIsResumed(@TempDir Path folder) throws IOException {
    Trained trained = train(folder);
    byte[] expected = Files.readAllBytes(trained.adapter());
    ObjectNode state = Json.readObject(trained.state(), 1 << 20);
    assertTrue(state.get("model").has("hidden_size"), state.toString());
    assertFalse(state.get("settings").has("config.json"), state.toString());
    // As it was before this form: the text of a record that has grown since.
    state.remove("model");
    state.withObjectProperty("settings").put("config.json", "ModelConfig[architecture=LLAMA]");
    Files.writeString(trained.state(), Json.pretty(state));
    Files.delete(trained.adapter());
    assertTrue(
        assertDone(run("train", trained.config(), "--resume")).err().contains("after step 1"));
    assertArrayEquals(expected, Files.readAllBytes(trained.adapter()));
  }

  /**
   * They took loraplus_lr_embedding where no embedding is trained, and left it without a meaning.
   * The file is in the form of then; what says which base and examples it was is the run's own.
   */
  @Test
  void anEarlierVersionsRateOfNoEmbeddingIsForgotten(@TempDir Path folder) throws IOException {
    Trained trained = train(folder);
    byte[] expected = Files.readAllBytes(trained.adapter());
    ObjectNode earlier = earlier(trained);
    assertEquals("1.0E-5", earlier.get("settings").get("loraplus_lr_embedding").textValue());
    Files.writeString(trained.state(), Json.pretty(earlier));
    Files.delete(trained.adapter());
    assertFixable(
        run("train", trained.config(), "--resume", "--set", "loraplus_lr_embedding=1e-5"),
        "loraplus_lr_embedding",
        "remove it");
    assertTrue(
        assertDone(run("train", trained.config(), "--resume")).err().contains("after step 1"));
    assertArrayEquals(expected, Files.readAllBytes(trained.adapter()));
    // In a checkpoint of this version it means something, whatever else the file says.
    earlier.set("model", Json.newObject());
    Files.writeString(trained.state(), Json.pretty(earlier));
    assertFixable(
        run("train", trained.config(), "--resume"),
        "loraplus_lr_embedding: saved 1.0E-5, now unset");
  }

  @Test
  void anEarlierVersionsRateOfAnEmbeddingIsCompared(@TempDir Path folder) throws IOException {
    Trained trained = train(folder, "modules_to_save: [lm_head, embed_tokens]");
    ObjectNode earlier = earlier(trained);
    earlier.withObjectProperty("settings").put("modules_to_save", "[embed_tokens, lm_head]");
    Files.writeString(trained.state(), Json.pretty(earlier));
    assertFixable(
        run("train", trained.config(), "--resume"),
        "the run has changed: loraplus_lr_embedding: saved 1.0E-5, now unset;");
    assertDone(run("train", trained.config(), "--resume", "--set", "loraplus_lr_embedding=1e-5"));
  }

  /** A state as it was written before the model had words of its own, of this run. */
  private static ObjectNode earlier(Trained trained) throws IOException {
    ObjectNode earlier = resource("trainer_state_earlier.json");
    ObjectNode now = Json.readObject(trained.state(), 1 << 20);
    for (String own : List.of("model_fingerprint", "data_fingerprint", "metrics_bytes")) {
      earlier.set(own, now.get(own));
    }
    return earlier;
  }

  private static ObjectNode resource(String name) throws IOException {
    try (InputStream in =
        Objects.requireNonNull(
            CheckpointIdentityTest.class.getResourceAsStream("/checkpoints/" + name))) {
      return Json.object(new String(in.readAllBytes(), StandardCharsets.UTF_8), name);
    }
  }

  @Test
  void whatTheModelComputesMustNotChange(@TempDir Path folder) throws IOException {
    Trained trained = train(folder);
    Path file = trained.model().resolve("config.json");
    ObjectNode config = Json.readObject(file, 1 << 20);
    // Nothing that decides the weights.
    config.put("initializer_range", 0.123);
    Files.writeString(file, Json.pretty(config));
    assertDone(run("train", trained.config(), "--resume"));
    String theta = ModelSettings.of(ModelConfig.read(trained.model())).get("rope_theta");
    assertNotEquals("1234", theta);
    config.remove(List.of("rope_parameters", "rope_scaling"));
    config.put("rope_theta", 1234);
    Files.writeString(file, Json.pretty(config));
    assertFixable(
        run("train", trained.config(), "--resume"),
        "cannot resume",
        "config.json: rope_theta: saved " + theta + ", now 1234");
  }
}
