// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.common.Json;
import org.qlora4j.kernels.DType;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelConfig.Activation;
import org.qlora4j.model.ModelConfig.Architecture;
import org.qlora4j.model.ModelConfig.LayerAttention;
import org.qlora4j.model.ModelConfig.Mlp;
import org.qlora4j.model.ModelConfig.Norm;
import org.qlora4j.model.ModelConfig.Qkv;
import org.qlora4j.model.RopeScaling;
import org.qlora4j.model.RotaryConfig;
import org.qlora4j.tests.support.FixtureFiles;

/** config.json in the forms it is found in. */
class ModelConfigTest {
  private static final String LLAMA =
      """
      {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
       "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 288}
      """;

  private static ModelConfig parse(String json) {
    return ModelConfig.parse(Json.object(json, "config.json"), "config.json");
  }

  private static RotaryConfig rotary(ModelConfig config) {
    return config.layerAttention().get(0).rotary();
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "llama",
        "llama3_tied",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma2",
        "gemma3",
        "neox_polyglot",
        "neox_sequential"
      })
  void oldAndNewKeysMeanTheSame(String model) {
    ModelConfig now = ModelConfig.read(FixtureFiles.reference("models/" + model));
    ModelConfig legacy =
        ModelConfig.readFile(FixtureFiles.reference("models/" + model + "/config_legacy.json"));
    assertEquals(now, legacy);
  }

  @Test
  void readsLlama() {
    ModelConfig c = ModelConfig.read(FixtureFiles.shape("llama3_tied"));
    assertEquals(Architecture.LLAMA, c.architecture());
    assertEquals(
        List.of(64, 2, 4, 2, 16, 128, 288),
        List.of(
            c.hiddenSize(),
            c.layers(),
            c.heads(),
            c.kvHeads(),
            c.headDim(),
            c.ffnSize(),
            c.vocabSize()));
    assertEquals(Norm.RMS_NORM, c.norm());
    assertEquals(1e-5f, c.normEps());
    assertEquals(Activation.SILU, c.activation());
    assertEquals(Mlp.GATED, c.mlp());
    assertEquals(Qkv.SEPARATE, c.qkv());
    assertTrue(c.tiedHead());
    assertFalse(c.parallelResidual() || c.qkvBias() || c.attentionOutputBias() || c.mlpBias());
    assertFalse(c.queryKeyNorm() || c.outputNorms());
    assertEquals(
        List.of(0.25f, 0f, 1f, 0f),
        List.of(c.attentionScale(), c.attentionSoftcap(), c.embeddingScale(), c.logitSoftcap()));
    RotaryConfig rotary = new RotaryConfig(16, 500000.0, new RopeScaling.Llama3(8, 1, 4, 16));
    assertEquals(Collections.nCopies(2, new LayerAttention(0, rotary)), c.layerAttention());
    assertEquals(DType.BF16, c.dtype());
    assertEquals(List.of(2), c.eosIds());
    assertEquals(64, c.queryWidth());
    assertEquals(32, c.kvWidth());
  }

  @Test
  void readsGptNeox() {
    ModelConfig c = ModelConfig.read(FixtureFiles.shape("neox_polyglot"));
    assertEquals(Architecture.GPT_NEOX, c.architecture());
    assertEquals(Norm.LAYER_NORM, c.norm());
    assertEquals(Activation.GELU_ERF, c.activation());
    assertEquals(Mlp.PLAIN, c.mlp());
    assertEquals(Qkv.FUSED_PER_HEAD, c.qkv());
    assertTrue(c.parallelResidual() && c.qkvBias() && c.attentionOutputBias() && c.mlpBias());
    assertFalse(c.tiedHead());
    assertEquals(8, rotary(c).dim());
    assertEquals(DType.F32, c.dtype());
    assertFalse(ModelConfig.read(FixtureFiles.shape("neox_sequential")).parallelResidual());
  }

  @Test
  void readsConfigsOfPublishedModels() {
    ModelConfig llama3 =
        ModelConfig.readFile(FixtureFiles.data("hf-configs/llama-3-8b.config.json"));
    assertEquals(128, llama3.headDim());
    assertEquals(8, llama3.kvHeads());
    assertEquals(DType.F16, llama3.dtype());
    ModelConfig polyglot =
        ModelConfig.readFile(FixtureFiles.data("polyglot-ko-configs/polyglot-ko-5.8b.config.json"));
    assertEquals(64, rotary(polyglot).dim());
    assertEquals(List.of(0), polyglot.eosIds());
    assertTrue(polyglot.parallelResidual(), "the default where the key is missing");
    for (String name : new String[] {"1.3b", "12.8b"}) {
      Path file = FixtureFiles.data("polyglot-ko-configs/polyglot-ko-" + name + ".config.json");
      assertEquals(64, rotary(ModelConfig.readFile(file)).dim());
    }
  }

  @Test
  void readsMistralAndQwen2() {
    ModelConfig mistral =
        ModelConfig.readFile(FixtureFiles.data("hf-configs/mistral-7b-v0.1.config.json"));
    assertEquals(Architecture.MISTRAL, mistral.architecture());
    assertEquals(Collections.nCopies(32, 4096), windows(mistral));
    assertEquals(8, mistral.kvHeads());
    assertEquals(131072, parse(of("mistral", "{}")).maxPositions());
    assertEquals(List.of(0, 0), windows(parse(of("mistral", "{\"sliding_window\": null}"))));
    assertEquals(List.of(4096, 4096), windows(parse(of("mistral", "{}"))), "the class's default");

    ModelConfig qwen =
        ModelConfig.readFile(FixtureFiles.data("hf-configs/qwen2.5-0.5b-instruct.config.json"));
    assertEquals(Architecture.QWEN2, qwen.architecture());
    assertTrue(qwen.qkvBias() && qwen.tiedHead());
    assertFalse(qwen.attentionOutputBias() || qwen.mlpBias() || qwen.queryKeyNorm());
    assertEquals(64, qwen.headDim());
    assertEquals(1e6, rotary(qwen).theta());
    assertEquals(Collections.nCopies(24, 0), windows(qwen), "not switched on");
    assertEquals(List.of(151645), qwen.eosIds());
    assertEquals(List.of(), parse(of("qwen2", "{}")).eosIds());
  }

  @Test
  void windowsOfQwenAreSwitchedOnAndStartLate() {
    String on = "\"use_sliding_window\": true, \"sliding_window\": 9";
    assertEquals(
        List.of(0, 9), windows(parse(of("qwen2", "{" + on + ", \"max_window_layers\": 1}"))));
    assertEquals(
        List.of(9, 0),
        windows(
            parse(
                of(
                    "qwen3",
                    "{"
                        + on
                        + ", \"layer_types\": [\"sliding_attention\", \"full_attention\"]}"))));
    assertEquals(128, parse(of("qwen3", "{}")).headDim(), "whatever hidden_size / heads is");
  }

  @Test
  void readsPhi3() {
    ModelConfig c = ModelConfig.read(FixtureFiles.reference("models/phi3"));
    assertEquals(Mlp.GATED_FUSED, c.mlp());
    assertEquals(Qkv.FUSED, c.qkv());
    assertEquals(List.of(0, 0), windows(c));
    ModelConfig partial = parse(of("phi3", "{\"partial_rotary_factor\": 0.75}"));
    assertEquals(12, rotary(partial).dim());
    assertEquals(List.of(32000), partial.eosIds());
  }

  /** Phi-3's 128k configs: a factor of 32 and 4096 positions, so sqrt(1 + 5 / 12). */
  @ParameterizedTest
  @ValueSource(strings = {"longrope", "su"})
  void longRopeHasTwoSetsOfFrequencies(String kind) {
    String factors =
        ", \"short_factor\": [1, 1.25, 1, 2, 1, 1, 1, 1], \"long_factor\": [1, 2, 4, 8, 16, 32, 64,"
            + " 128]}";
    String scaling = "{\"type\": \"" + kind + "\"" + factors;
    RotaryConfig rotary =
        rotary(
            parse(
                of(
                    "phi3",
                    "{\"max_position_embeddings\": 131072, \"original_max_position_embeddings\": 4096,"
                        + " \"rope_scaling\": "
                        + scaling
                        + "}")));
    assertEquals(Math.sqrt(17.0 / 12), rotary.attentionFactor(), 1e-7);
    assertEquals(4096, rotary.shortContext());
    float[] inShort = rotary.inverseFrequencies(4096);
    float[] inLong = rotary.inverseFrequencies(4097);
    for (int i = 0; i < 8; i++) {
      double plain = Math.pow(10000, -2.0 * i / 16);
      assertClose((float) (plain / (i == 1 ? 1.25 : i == 3 ? 2 : 1)), inShort[i]);
      assertClose((float) (plain / (1 << i)), inLong[i]);
    }
    RotaryConfig now =
        rotary(
            parse(
                of(
                    "phi3",
                    "{\"max_position_embeddings\": 131072, \"rope_parameters\": "
                        + scaling.replace(
                            "\"type\"",
                            "\"rope_theta\": 10000.0, \"partial_rotary_factor\": 1.0,"
                                + " \"original_max_position_embeddings\": 4096, \"rope_type\"")
                        + "}")));
    assertEquals(rotary, now, "the newer keys mean the same");
  }

  @Test
  void readsGemma() {
    ModelConfig two = ModelConfig.read(FixtureFiles.reference("models/gemma2"));
    assertEquals(Norm.RMS_NORM_UNIT_OFFSET, two.norm());
    assertTrue(two.outputNorms() && two.tiedHead());
    assertFalse(two.queryKeyNorm());
    assertEquals(
        List.of(5f, 3f, 8f, (float) (1 / Math.sqrt(24))),
        List.of(
            two.attentionSoftcap(),
            two.logitSoftcap(),
            two.embeddingScale(),
            two.attentionScale()));
    assertEquals(List.of(6, 0), windows(two));
    ModelConfig three = ModelConfig.read(FixtureFiles.reference("models/gemma3"));
    assertTrue(three.queryKeyNorm());
    assertEquals(List.of(6, 0, 6), windows(three));
    assertEquals(1e4, three.layerAttention().get(0).rotary().theta());
    assertEquals(
        new RotaryConfig(16, 1e6, new RopeScaling.Linear(4)),
        three.layerAttention().get(1).rotary());
    // As published configs leave it to the class: caps of 50 and 30, every sixth layer full.
    ModelConfig published = parse(of("gemma2", "{}"));
    assertEquals(
        List.of(50f, 30f), List.of(published.attentionSoftcap(), published.logitSoftcap()));
    assertEquals(256, published.headDim());
    assertTrue(published.tiedHead());
    ModelConfig long3 =
        parse(of("gemma3_text", "{\"num_hidden_layers\": 7, \"sliding_window\": 512}"));
    assertEquals(List.of(512, 512, 512, 512, 512, 0, 512), windows(long3));
    assertEquals(0, long3.attentionSoftcap());
  }

  private static List<Integer> windows(ModelConfig config) {
    return config.layerAttention().stream().map(LayerAttention::window).toList();
  }

  /** The small shape as another architecture, with other keys. */
  private static String of(String modelType, String more) {
    ObjectNode json = Json.object(LLAMA, "test");
    json.put("model_type", modelType);
    json.setAll(Json.object(more, "test"));
    return json.toString();
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "mistral|{\"sliding_window\": 0}|sliding_window",
        "mistral|{\"attention_dropout\": 0.1}|attention_dropout",
        "gpt_neox|{\"hidden_dropout\": 0.1}|hidden_dropout",
        "phi3|{\"resid_pdrop\": 0.1}|resid_pdrop",
        "phi3|{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}|rope_scaling.rope_type",
        "phi3|{\"rope_scaling\": {\"type\": \"longrope\", \"long_factor\": [1]}}|rope_scaling.short_factor",
        "phi3|{\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1,1,1,1,1,1,1,0]}}|short_factor",
        "qwen2|{\"layer_types\": [\"full_attention\"]}|layer_types",
        "qwen2|{\"layer_types\": [\"full_attention\", \"sliding_attention\"]}|sliding_window",
        "qwen3|{\"layer_types\": [\"full_attention\", \"linear_attention\"]}|layer_types",
        "qwen3|{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}}|rope_scaling.rope_type",
        "gemma2|{\"sliding_window\": null}|sliding_window",
        "gemma2|{\"attn_logit_softcapping\": -1}|attn_logit_softcapping",
        "gemma2|{\"final_logit_softcapping\": \"none\"}|final_logit_softcapping",
        "gemma2|{\"query_pre_attn_scalar\": 0}|query_pre_attn_scalar",
        "gemma2|{\"hidden_activation\": \"relu\"}|hidden_activation",
        "gemma3_text|{\"use_bidirectional_attention\": true}|use_bidirectional_attention",
        "gemma3_text|{\"sliding_window_pattern\": 0}|sliding_window_pattern",
        "gemma3_text|{\"rope_parameters\": {\"rope_theta\": 10000.0}}|rope_parameters",
        "gemma3_text|{\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"yarn\"}}}|rope_parameters.full_attention.rope_type",
        "llama|{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 10000.0}}}|rope_parameters.full_attention"
      })
  void refusesOptionsByTheirKey(String modelType, String more, String key) {
    assertRefused(() -> parse(of(modelType, more)), "config.json: ", key + ": expected ");
  }

  @Test
  void otherArchitecturesAreNamed() {
    assertRefused(
        () -> parse("{\"model_type\": \"mixtral\"}"),
        "model_type",
        "'mixtral'",
        "llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text or gpt_neox");
  }

  @Test
  void severalEndTokensAndNone() {
    assertEquals(List.of(5, 9), parse(with("eos_token_id", "[5, 9]")).eosIds());
    assertEquals(List.of(), parse(with("eos_token_id", "null")).eosIds());
    assertEquals(List.of(2), parse(LLAMA).eosIds());
  }

  @ParameterizedTest
  @CsvSource({
    "gelu,GELU_ERF",
    "gelu_new,GELU_TANH",
    "gelu_pytorch_tanh,GELU_TANH",
    "gelu_fast,GELU_TANH",
    "silu,SILU"
  })
  void activationsByName(String name, Activation expected) {
    assertEquals(expected, parse(with("hidden_act", "\"" + name + "\"")).activation());
  }

  private static String with(String key, String value) {
    ObjectNode json = Json.object(LLAMA, "test");
    json.set(key, Json.value(value, "test"));
    return json.toString();
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "hidden_size|\"64\"|an integer",
        "hidden_size|-1|found -1",
        "hidden_size|1e3|an integer",
        "hidden_size|null|found nothing",
        "hidden_size|99999999999|an integer",
        "num_attention_heads|5|divisor of hidden_size",
        "num_attention_heads|0|an integer of 1",
        "num_key_value_heads|3|a divisor",
        "num_key_value_heads|8|an integer of 1 to 4",
        "num_hidden_layers|1000000|an integer of 1 to 4096",
        "head_dim|15|an even number",
        "rms_norm_eps|\"small\"|a number",
        "rms_norm_eps|NaN|a number",
        "hidden_act|\"relu\"|'relu'",
        "tie_word_embeddings|\"yes\"|true or false",
        "rope_theta|1|a number above 1",
        "rope_theta|Infinity|finite",
        "rope_scaling|\"linear\"|an object",
        "rope_scaling|{\"type\":\"yarn\",\"factor\":4}|'yarn'",
        "rope_scaling|{\"type\":\"linear\"}|factor",
        "rope_scaling|{\"type\":\"linear\",\"factor\":0}|factor",
        "rope_scaling|{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}|high_freq_factor",
        "rope_parameters|{\"rope_type\":\"dynamic\"}|'dynamic'",
        "partial_rotary_factor|0.01|even number",
        "torch_dtype|\"float8\"|'float8'",
        "eos_token_id|\"</s>\"|a token id",
        "pretraining_tp|2|pretraining_tp",
        "quantization_config|{\"quant_method\":\"gptq\"}|'gptq'",
      })
  void refusesValuesThatCannotBe(String key, String value, String part) {
    assertRefused(() -> parse(with(key, value)), "config.json: ", part);
  }

  @Test
  void refusesWhatIsNoConfig() {
    assertRefused(() -> ModelConfig.read(Path.of("absent")), "no such model directory: absent");
    assertRefused(
        () -> ModelConfig.read(FixtureFiles.project("tests")), "config.json", "no such file");
    assertRefused(() -> parse("{}"), "model_type");
    assertRefused(() -> parse("{\"model_type\": \"llama\"}"), "hidden_size", "found nothing");
    assertRefused(() -> parse("[]"), "a JSON object");
    assertRefused(() -> parse("{\"a\": 1, \"a\": 2}"), "uplicate");
  }

  /**
   * transformers 5.18's inv_freq for theta 5e5 with Llama 3.1's scaling, head 128, at the ends, in
   * the blended range and beside it. Both sides make some four f32 operations of at most 1 ulp
   * (1.2e-7 relative) each.
   */
  @Test
  void frequenciesAreThoseOfTransformers() {
    String llama31 =
        """
        {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 1, "num_attention_heads": 32,
         "intermediate_size": 128, "vocab_size": 288, "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3",
         "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}
        """;
    float[] f = rotary(parse(llama31)).inverseFrequencies(1);
    assertEquals(64, f.length);
    assertClose(0x1p0f, f[0]);
    assertClose(0x1.a11582p-1f, f[1]);
    assertClose(0x1.a4ee40p-9f, f[28]);
    assertClose(0x1.1bfa0cp-9f, f[29]);
    assertClose(0x1.c12f3cp-11f, f[31]);
    assertClose(0x1.765ba4p-13f, f[34]);
    assertClose(0x1.90d10cp-14f, f[35]);
    assertClose(0x1.4985fep-22f, f[63]);
    float[] linear =
        rotary(parse(with("rope_scaling", "{\"type\": \"linear\", \"factor\": 4.0}")))
            .inverseFrequencies(1);
    float[] plain = rotary(parse(LLAMA)).inverseFrequencies(1);
    for (int i = 0; i < plain.length; i++) {
      assertEquals(plain[i] / 4, linear[i]);
    }
    assertArrayEquals(
        new float[] {0x1p0f, 0x1.999998p-4f, 0x1.47ae14p-7f, 0x1.0624dep-10f},
        rotary(ModelConfig.read(FixtureFiles.shape("neox_polyglot"))).inverseFrequencies(1),
        2e-8f);
  }

  private static void assertClose(float expected, float actual) {
    assertEquals(expected, actual, 4 * 1.2e-7f * expected);
  }
}
