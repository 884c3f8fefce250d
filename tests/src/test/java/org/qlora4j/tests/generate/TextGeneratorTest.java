// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.generate;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.generate.SamplingConfig;
import org.qlora4j.generate.TextGenerator;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Packs;

class TextGeneratorTest {

  static List<String> packs() {
    return Packs.names(true);
  }

  /**
   * fp32 logits of a trained model against transformers (1e-4: five layers of f32 sums in another
   * order), and its greedy text.
   */
  @ParameterizedTest
  @MethodSource("packs")
  void storiesModelMatchesTransformers(String packName) {
    KernelPack pack = open(packName);
    Path folder = FixtureFiles.data("stories260k-hf");
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder);
        SafetensorsFile expected =
            SafetensorsFile.open(folder.resolve("expected_logits.safetensors"));
        TensorArena arena = new TensorArena(pack);
        DecoderModel model =
            ModelLoader.load(
                pack,
                ModelConfig.read(folder),
                checkpoint,
                new ModelLoader.Options(DType.F32, null, false),
                Progress.none())) {
      Pass pass = Pass.inference(pack, arena, DType.F32, LoraCompute.FAST);
      int[] ids =
          Arrays.stream(expected.tensor("input_ids").toLongs()).mapToInt(id -> (int) id).toArray();
      DeviceTensor hidden = model.forward(pass, SequenceBatch.single(arena, ids, 0), null);
      assertArrayEquals(
          expected.tensor("logits").toFloats(),
          model.logits(pass, hidden).toFloats(),
          1e-4f,
          "logits on " + packName);

      JsonNode greedy = Json.readObject(folder.resolve("greedy.json"), 1 << 20);
      int[] prompt = ints(greedy.get("prompt_ids"));
      int[] all = ints(greedy.get("greedy_ids"));
      boolean withPrompt = Arrays.equals(prompt, Arrays.copyOf(all, prompt.length));
      int[] text = withPrompt ? Arrays.copyOfRange(all, prompt.length, all.length) : all;
      int[] generated =
          new TextGenerator(model, pass, Set.of())
              .generate(prompt, SamplingConfig.greedy(text.length));
      assertArrayEquals(text, generated, "greedy ids on " + packName);
    }
  }

  /**
   * A quantized model in bf16 still writes words that its tokenizer's stories use, and the same
   * ones each time.
   */
  @ParameterizedTest
  @MethodSource("packs")
  void tinyStoriesModelWritesText(String packName) {
    KernelPack pack = open(packName);
    Path folder = FixtureFiles.data("tinystories-656k-llama-hf");
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder);
        Tokenizer tokenizer = Tokenizer.load(folder);
        TensorArena arena = new TensorArena(pack);
        DecoderModel model =
            ModelLoader.load(
                pack,
                ModelConfig.read(folder),
                checkpoint,
                new ModelLoader.Options(DType.BF16, QuantizationConfig.nf4(), false),
                Progress.none())) {
      Pass pass = Pass.inference(pack, arena, DType.BF16, LoraCompute.FAST);
      TextGenerator generator = new TextGenerator(model, pass, tokenizer.stopIds());
      int[] prompt = tokenizer.encode("Once upon a time, there was a little");
      SamplingConfig sampled = new SamplingConfig(60, 0.8, 40, 0.95, 1.1, 7);
      String text = tokenizer.decode(generator.generate(prompt, sampled));
      assertEquals(
          text,
          tokenizer.decode(generator.generate(prompt, sampled)),
          "the same seed gives the same text");
      assertEquals(0, arena.mark().used(), "the arena is left as it was");

      String greedy = tokenizer.decode(generator.generate(prompt, SamplingConfig.greedy(80)));
      Set<String> words =
          new HashSet<>(Arrays.asList(greedy.toLowerCase(java.util.Locale.ROOT).split("[^a-z]+")));
      words.retainAll(
          Set.of(
              "girl", "boy", "named", "she", "he", "was", "the", "a", "to", "and", "mom", "loved",
              "day", "play"));
      assertTrue(words.size() >= 6, "expected the words of a story in: " + greedy);
    }
  }

  /** The pack, where it has all that generation needs; libtorch stands in for attention. */
  private static KernelPack open(String name) {
    KernelPack pack = Packs.open(name);
    Packs.requireLibtorch(pack);
    for (String operator :
        List.of(
            "linear_forward",
            "rms_norm_forward",
            "rotary",
            "activation_forward",
            "quantize_4bit")) {
      Assumptions.assumeTrue(pack.supports(operator), () -> "pack " + name + " has no " + operator);
    }
    return pack;
  }

  private static int[] ints(JsonNode list) {
    int[] values = new int[list.size()];
    for (int i = 0; i < values.length; i++) {
      values[i] = list.get(i).asInt();
    }
    return values;
  }
}
