// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
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
import org.qlora4j.model.ModelConfig.Norm;
import org.qlora4j.model.ModelConfig.RopeScaling;
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

  @ParameterizedTest
  @ValueSource(strings = {"llama", "llama3_tied", "neox_polyglot", "neox_sequential"})
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
    assertTrue(c.gatedMlp());
    assertTrue(c.tiedHead());
    assertFalse(c.fusedQkv() || c.parallelResidual() || c.attentionBias() || c.mlpBias());
    assertEquals(16, c.rotaryDim());
    assertEquals(500000.0, c.ropeTheta());
    assertEquals(new RopeScaling.Llama3(8, 1, 4, 16), c.ropeScaling());
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
    assertTrue(c.fusedQkv() && c.parallelResidual() && c.attentionBias() && c.mlpBias());
    assertFalse(c.gatedMlp() || c.tiedHead());
    assertEquals(8, c.rotaryDim());
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
    assertEquals(64, polyglot.rotaryDim());
    assertEquals(List.of(0), polyglot.eosIds());
    assertTrue(polyglot.parallelResidual(), "the default where the key is missing");
    for (String name : new String[] {"1.3b", "12.8b"}) {
      Path file = FixtureFiles.data("polyglot-ko-configs/polyglot-ko-" + name + ".config.json");
      assertEquals(64, ModelConfig.readFile(file).rotaryDim());
    }
  }

  @Test
  void otherArchitecturesAreNamed() {
    assertRefused(
        () -> ModelConfig.read(FixtureFiles.reference("models/gemma2")),
        "model_type",
        "'gemma2'",
        "llama or gpt_neox");
    assertRefused(
        () -> ModelConfig.readFile(FixtureFiles.data("hf-configs/mistral-7b-v0.1.config.json")),
        "'mistral'");
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
    float[] f = parse(llama31).inverseFrequencies();
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
        parse(with("rope_scaling", "{\"type\": \"linear\", \"factor\": 4.0}")).inverseFrequencies();
    float[] plain = parse(LLAMA).inverseFrequencies();
    for (int i = 0; i < plain.length; i++) {
      assertEquals(plain[i] / 4, linear[i]);
    }
    assertArrayEquals(
        new float[] {0x1p0f, 0x1.999998p-4f, 0x1.47ae14p-7f, 0x1.0624dep-10f},
        ModelConfig.read(FixtureFiles.shape("neox_polyglot")).inverseFrequencies(),
        2e-8f);
  }

  private static void assertClose(float expected, float actual) {
    assertEquals(expected, actual, 4 * 1.2e-7f * expected);
  }
}
