// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.gguf;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.PriorityQueue;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.gguf.GgufExporter;
import org.qlora4j.gguf.GgufFile;
import org.qlora4j.gguf.GgufType;
import org.qlora4j.gguf.GgufValue;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.CheckpointQuantizer;
import org.qlora4j.quant.DenseRows;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.SmallModel;
import org.qlora4j.tests.support.StoredTensors;

/** Models as GGUF files: names, order of rows, element types, hyperparameters, tokenizers. */
class GgufExporterTest {
  private final Path folder;

  GgufExporterTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private GgufExporter.Result export(Path model, GgufType type) {
    return new GgufExporter(Packs.reference(), type)
        .export(model, folder.resolve("out.gguf"), Progress.none());
  }

  private GgufFile exported(Path model, GgufType type) {
    export(model, type);
    return GgufFile.open(folder.resolve("out.gguf"));
  }

  /** A tensor's values, decoded by the formats' definitions. */
  private static float[] values(GgufFile file, String name) {
    GgufFile.Tensor tensor = file.tensor(name);
    int elements = (int) tensor.dimensions().stream().mapToLong(d -> d).reduce(1, (a, b) -> a * b);
    ByteBuffer bytes = ByteBuffer.wrap(file.read(tensor)).order(ByteOrder.LITTLE_ENDIAN);
    float[] values = new float[elements];
    for (int i = 0; i < elements; ) {
      switch (tensor.type()) {
        case F32 -> values[i++] = bytes.getFloat();
        case F16 -> values[i++] = FloatBits.fromF16(bytes.getShort());
        case BF16 -> values[i++] = FloatBits.fromBf16(bytes.getShort());
        case Q8_0 -> {
          float d = FloatBits.fromF16(bytes.getShort());
          for (int k = 0; k < 32; k++) {
            values[i++] = d * bytes.get();
          }
        }
        case Q4_0 -> {
          float d = FloatBits.fromF16(bytes.getShort());
          for (int k = 0; k < 16; k++) {
            int pair = bytes.get() & 0xff;
            values[i + k] = d * ((pair & 15) - 8);
            values[i + k + 16] = d * ((pair >> 4) - 8);
          }
          i += 32;
        }
      }
    }
    return values;
  }

  private Path llama(boolean tied, String more) throws IOException {
    Path model = folder.resolve("llama");
    String config = SmallModel.llama(2048, 96, 2, 6, 2, 200);
    config = config.substring(0, config.length() - 1) + more + "}";
    SmallModel.write(
        model, tied ? config.replace("_embeddings\":false", "_embeddings\":true") : config, 9);
    copyTokenizer(FixtureFiles.data("tinystories-656k-llama-hf"), model);
    return model;
  }

  private static void copyTokenizer(Path from, Path to) throws IOException {
    for (String name : List.of("tokenizer.json", "tokenizer_config.json")) {
      Files.copy(from.resolve(name), to.resolve(name));
    }
  }

  private Path neox() throws IOException {
    Path model = folder.resolve("neox");
    SmallModel.write(
        model,
        """
        {"model_type":"gpt_neox","torch_dtype":"bfloat16","vocab_size":30080,"hidden_size":32,
        "num_hidden_layers":2,"num_attention_heads":4,"intermediate_size":64,"hidden_act":"gelu",
        "rotary_pct":0.5,"max_position_embeddings":128,"layer_norm_eps":1e-5,
        "tie_word_embeddings":false,"bos_token_id":1,"eos_token_id":1}
        """,
        3);
    copyTokenizer(FixtureFiles.data("polyglot-ko-tokenizer"), model);
    return model;
  }

  private static Object scalar(GgufFile file, String key) {
    if (file.metadata().get(key) instanceof GgufValue.Scalar scalar) {
      return scalar.value();
    }
    throw new AssertionError(key + " is " + file.metadata().get(key));
  }

  private static List<Object> list(GgufFile file, String key) {
    if (file.metadata().get(key) instanceof GgufValue.Array array) {
      return array.values();
    }
    throw new AssertionError(key + " is " + file.metadata().get(key));
  }

  // ------------------------------------------------------------------ tensors

  /**
   * The exported q and k, with pairs of neighbours rotated as llama.cpp does, give the attention
   * scores of the stored ones with the halves of a head rotated as transformers does.
   */
  @Test
  void scoresAreTheSameInLlamaCppsRotation() throws IOException {
    Path model = llama(false, "");
    ModelConfig config = ModelConfig.read(model);
    int hidden = config.hiddenSize();
    int width = config.headDim();
    float[] x = new float[hidden];
    Random random = new Random(4);
    for (int i = 0; i < hidden; i++) {
      x[i] = (float) random.nextGaussian();
    }
    float[] frequencies = config.layerAttention().get(0).rotary().inverseFrequencies(1);
    try (GgufFile file = exported(model, GgufType.F32);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      for (int layer = 0; layer < 2; layer++) {
        String path = "model.layers." + layer + ".self_attn.";
        float[] q = product(checkpoint.tensor(path + "q_proj.weight").toFloats(), x);
        float[] k = product(checkpoint.tensor(path + "k_proj.weight").toFloats(), x);
        float[] q2 = product(values(file, "blk." + layer + ".attn_q.weight"), x);
        float[] k2 = product(values(file, "blk." + layer + ".attn_k.weight"), x);
        for (int head = 0; head < config.heads(); head++) {
          int kvHead = head / (config.heads() / config.kvHeads());
          double halves = 0;
          double pairs = 0;
          for (int i = 0; i < width / 2; i++) {
            halves +=
                rotated(q, head * width + i, width / 2, k, kvHead * width + i, frequencies[i]);
            pairs +=
                rotated(q2, head * width + 2 * i, 1, k2, kvHead * width + 2 * i, frequencies[i]);
          }
          // The same products in another order of f64 additions.
          assertEquals(halves, pairs, 1e-6 * Math.max(1, Math.abs(halves)), "head " + head);
        }
      }
    }
  }

  private static float[] product(float[] weight, float[] x) {
    float[] y = new float[weight.length / x.length];
    for (int row = 0; row < y.length; row++) {
      double sum = 0;
      for (int i = 0; i < x.length; i++) {
        sum += (double) weight[row * x.length + i] * x[i];
      }
      y[row] = (float) sum;
    }
    return y;
  }

  /** One pair's part of the score of a query at position 5 and a key at position 2. */
  private static double rotated(float[] q, int a, int apart, float[] k, int b, double frequency) {
    double p = 5 * frequency;
    double r = 2 * frequency;
    double q0 = q[a] * Math.cos(p) - q[a + apart] * Math.sin(p);
    double q1 = q[a] * Math.sin(p) + q[a + apart] * Math.cos(p);
    double k0 = k[b] * Math.cos(r) - k[b + apart] * Math.sin(r);
    double k1 = k[b] * Math.sin(r) + k[b + apart] * Math.cos(r);
    return q0 * k0 + q1 * k1;
  }

  private static final Map<String, String> LLAMA_NAMES =
      Map.of(
          "self_attn.v_proj", "attn_v",
          "self_attn.o_proj", "attn_output",
          "mlp.gate_proj", "ffn_gate",
          "mlp.up_proj", "ffn_up",
          "mlp.down_proj", "ffn_down",
          "input_layernorm", "attn_norm",
          "post_attention_layernorm", "ffn_norm");

  /**
   * Every tensor of every type. Tolerance: half a step of the type, relative to what shares a
   * scale: 2^-11 for F16 and none for BF16 of a bf16 model, half of max/127 for Q8_0, and all of
   * max/8 for Q4_0, whose codes end at 7 of 8 on one side; and 2^-11 more for the scale's F16.
   */
  @ParameterizedTest
  @EnumSource(GgufType.class)
  void tensorsAreTheModels(GgufType type) throws IOException {
    Path model = llama(false, "");
    try (GgufFile file = exported(model, type);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      assertEquals(3 + 2 * 9, file.tensors().size());
      assertClose(checkpoint, "model.embed_tokens", file, "token_embd", type);
      assertClose(checkpoint, "model.norm", file, "output_norm", GgufType.F32);
      assertClose(
          checkpoint, "lm_head", file, "output", type == GgufType.Q4_0 ? GgufType.Q8_0 : type);
      for (int layer = 0; layer < 2; layer++) {
        String from = "model.layers." + layer + ".";
        String to = "blk." + layer + ".";
        LLAMA_NAMES.forEach(
            (stored, name) -> {
              boolean norm = name.endsWith("norm");
              // 200 columns do not fill blocks of 32.
              boolean ragged = name.equals("ffn_down") && type.isQuantized();
              assertClose(
                  checkpoint,
                  from + stored,
                  file,
                  to + name,
                  norm ? GgufType.F32 : ragged ? GgufType.F16 : type);
            });
      }
      assertEquals((long) type.fileType(), scalar(file, "general.file_type"));
    }
  }

  private static void assertClose(
      ModelCheckpoint checkpoint, String stored, GgufFile file, String name, GgufType type) {
    GgufFile.Tensor tensor = file.tensor(name + ".weight");
    assertEquals(type, tensor.type(), name);
    long[] shape = checkpoint.tensor(stored + ".weight").shape();
    assertEquals(shape[shape.length - 1], tensor.dimensions().get(0), name);
    float[] expected = checkpoint.tensor(stored + ".weight").toFloats();
    float[] found = values(file, name + ".weight");
    assertEquals(expected.length, found.length, name);
    for (int i = 0; i < expected.length; i++) {
      float largest = 0;
      int block = i / 32 * 32;
      for (int k = block; k < Math.min(expected.length, block + 32); k++) {
        largest = Math.max(largest, Math.abs(expected[k]));
      }
      double allowed =
          switch (type) {
            case F32, BF16 -> 0;
            case F16 -> Math.abs(expected[i]) * 0x1p-11 + 0x1p-25;
            case Q8_0 -> largest * (0.5 / 127 + 0x1p-11);
            case Q4_0 -> largest * (1.0 / 8 + 0x1p-11);
          };
      assertEquals(expected[i], found[i], allowed, name + " " + i);
    }
  }

  @Test
  void neoxHasAllQueriesThenAllKeysThenAllValues() throws IOException {
    Path model = neox();
    GgufExporter.Result result = export(model, GgufType.F32);
    assertTrue(result.notes().toString().contains("GELU"), result.notes().toString());
    try (GgufFile file = GgufFile.open(folder.resolve("out.gguf"));
        ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      assertEquals("gptneox", scalar(file, "general.architecture"));
      assertEquals(4L, scalar(file, "gptneox.rope.dimension_count"));
      assertEquals(true, scalar(file, "gptneox.use_parallel_residual"));
      assertEquals(4L, scalar(file, "gptneox.attention.head_count"));
      for (String part : List.of("weight", "bias")) {
        int cols = part.equals("weight") ? 32 : 1;
        float[] stored =
            checkpoint.tensor("gpt_neox.layers.1.attention.query_key_value." + part).toFloats();
        float[] found = values(file, "blk.1.attn_qkv." + part);
        int at = 0;
        for (int kind = 0; kind < 3; kind++) {
          for (int head = 0; head < 4; head++) {
            for (int row = 0; row < 8; row++) {
              for (int col = 0; col < cols; col++) {
                assertEquals(stored[((head * 3 + kind) * 8 + row) * cols + col], found[at++]);
              }
            }
          }
        }
        assertEquals(stored.length, at);
        assertArrayEquals(
            checkpoint.tensor("gpt_neox.layers.0.mlp.dense_h_to_4h." + part).toFloats(),
            values(file, "blk.0.ffn_up." + part));
      }
      assertArrayEquals(
          checkpoint.tensor("embed_out.weight").toFloats(), values(file, "output.weight"));
      assertEquals(GgufType.F32, file.tensor("blk.0.ffn_down.bias").type());
    }
  }

  /** A base in 4 bits is exported as the weights it stands for. */
  @Test
  void fourBitWeightsAreDequantized() throws IOException {
    Path model = llama(true, "");
    Path stored = folder.resolve("stored");
    KernelPack pack = Packs.reference();
    Set<String> linears = new LinkedHashSet<>();
    WeightNames.of(ModelConfig.read(model)).linears().forEach(m -> linears.add(m.weight()));
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      new CheckpointQuantizer(pack, QuantizationConfig.nf4())
          .quantize(checkpoint, linears, model, stored, 1 << 30, Progress.none());
    }
    String up = "model.layers.0.mlp.up_proj.weight";
    try (GgufFile file = exported(stored, GgufType.F32);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(stored);
        DenseRows rows = DenseRows.of(pack, QuantizedTensors.of(checkpoint, up))) {
      float[] expected = new float[200 * 96];
      rows.read(0, 200, expected);
      assertArrayEquals(expected, values(file, "blk.0.ffn_up.weight"));
      assertFalse(file.tensors().containsKey("output.weight"), "llama.cpp shares the embedding");
    }
    // The embedding is the head as well, which Q4_0 would hurt most.
    try (GgufFile file = exported(stored, GgufType.Q4_0)) {
      assertEquals(GgufType.Q8_0, file.tensor("token_embd.weight").type());
      assertEquals(GgufType.Q4_0, file.tensor("blk.0.ffn_up.weight").type());
    }
  }

  @Test
  void llama3FrequenciesGoAlong() throws IOException {
    Path model =
        llama(
            false,
            ",\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
                + "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                + "\"original_max_position_embeddings\":64}");
    ModelConfig config = ModelConfig.read(model);
    try (GgufFile file = exported(model, GgufType.F16)) {
      float[] factors = values(file, "rope_freqs.weight");
      assertEquals(500000f, scalar(file, "llama.rope.freq_base"));
      float[] scaled = config.layerAttention().get(0).rotary().inverseFrequencies(1);
      assertEquals(scaled.length, factors.length);
      int between = 0;
      for (int i = 0; i < scaled.length; i++) {
        double plain = Math.pow(500000, -2.0 * i / config.layerAttention().get(0).rotary().dim());
        // Both in f32, a handful of operations each.
        assertEquals(scaled[i], plain / factors[i], 1e-5 * scaled[i]);
        between += factors[i] > 1 && factors[i] < 8 ? 1 : 0;
      }
      assertTrue(between > 0, "one frequency lies between the bounds");
    }
  }

  // ------------------------------------------------------------------ tokenizers

  /**
   * llama.cpp's algorithm for its "llama" tokenizer, over the exported tokens and scores, gives the
   * ids of the model's own tokenizer.
   */
  @ParameterizedTest
  @ValueSource(strings = {"tinystories", "korean"})
  void llamaCppsTokensAreTheModels(String name) throws IOException {
    boolean korean = name.equals("korean");
    Path model =
        korean
            ? FixtureFiles.project("examples/model")
            : FixtureFiles.data("tinystories-656k-llama-hf");
    List<String> texts = new ArrayList<>();
    if (korean) {
      for (String line :
          Files.readAllLines(FixtureFiles.project("examples/data/blog-reviews.jsonl"))
              .subList(0, 60)) {
        Json.object(line, "line").forEach(value -> texts.add(value.asText()));
      }
      texts.add("\ud83d\ude00 caf\u00e9"); // in bytes
    } else {
      String stories = Files.readString(FixtureFiles.data("tinystories-sample/tiny_stories.txt"));
      texts.addAll(List.of(stories.substring(0, 20_000).split("\n\n", -1)));
      texts.add("two  spaces,   three");
    }
    texts.removeIf(String::isEmpty);
    try (GgufFile file = exported(model, GgufType.F16);
        Tokenizer tokenizer = Tokenizer.load(model)) {
      SpmTokenizer llamaCpp = new SpmTokenizer(file);
      int compared = 0;
      for (String text : texts) {
        int[] expected = tokenizer.encodeInner(text);
        assertArrayEquals(expected, llamaCpp.encode(text), text);
        compared += expected.length;
      }
      assertTrue(compared > 1000, compared + " tokens");
      assertEquals(true, scalar(file, "tokenizer.ggml.add_bos_token"));
      assertEquals(
          (long) Objects.requireNonNull(tokenizer.bosId()),
          scalar(file, "tokenizer.ggml.bos_token_id"));
    }
  }

  /** The neighbours whose union has the highest score are merged, the leftmost of equals first. */
  private static final class SpmTokenizer {
    private final Map<String, Integer> ids = new HashMap<>();
    private final List<Object> scores;
    private final boolean spacePrefix;

    private record Bigram(int left, int right, float score, int length) {}

    SpmTokenizer(GgufFile file) {
      List<Object> tokens = list(file, "tokenizer.ggml.tokens");
      for (int id = 0; id < tokens.size(); id++) {
        ids.put((String) tokens.get(id), id);
      }
      scores = list(file, "tokenizer.ggml.scores");
      spacePrefix = (Boolean) scalar(file, "tokenizer.ggml.add_space_prefix");
    }

    int[] encode(String text) {
      String escaped = ((spacePrefix ? " " : "") + text).replace(' ', '\u2581');
      List<String> symbols = new ArrayList<>();
      escaped.codePoints().forEach(c -> symbols.add(Character.toString(c)));
      int n = symbols.size();
      int[] next = new int[n];
      int[] previous = new int[n];
      for (int i = 0; i < n; i++) {
        next[i] = i + 1 < n ? i + 1 : -1;
        previous[i] = i - 1;
      }
      PriorityQueue<Bigram> queue =
          new PriorityQueue<>(
              Comparator.comparingDouble((Bigram b) -> -b.score()).thenComparingInt(Bigram::left));
      for (int i = 0; i + 1 < n; i++) {
        add(queue, symbols, i, i + 1);
      }
      for (Bigram b = queue.poll(); b != null; b = queue.poll()) {
        String left = symbols.get(b.left());
        String right = symbols.get(b.right());
        if (left.isEmpty() || right.isEmpty() || left.length() + right.length() != b.length()) {
          continue; // one of them has changed since
        }
        symbols.set(b.left(), left + right);
        symbols.set(b.right(), "");
        next[b.left()] = next[b.right()];
        if (next[b.right()] >= 0) {
          previous[next[b.right()]] = b.left();
        }
        add(queue, symbols, previous[b.left()], b.left());
        add(queue, symbols, b.left(), next[b.left()]);
      }
      List<Integer> out = new ArrayList<>();
      for (int i = n == 0 ? -1 : 0; i >= 0; i = next[i]) {
        Integer id = ids.get(symbols.get(i));
        if (id != null) {
          out.add(id);
          continue;
        }
        for (byte b : symbols.get(i).getBytes(StandardCharsets.UTF_8)) {
          out.add(ids.get(String.format(Locale.ROOT, "<0x%02X>", b & 0xff)));
        }
      }
      return out.stream().mapToInt(id -> id).toArray();
    }

    private void add(PriorityQueue<Bigram> queue, List<String> symbols, int left, int right) {
      if (left < 0 || right < 0) {
        return;
      }
      String both = symbols.get(left) + symbols.get(right);
      Integer id = ids.get(both);
      if (id != null) {
        queue.add(new Bigram(left, right, (Float) scores.get(id), both.length()));
      }
    }
  }

  @Test
  void byteLevelTokenizersKeepTokensMergesAndIds() throws IOException {
    Path model = neox();
    ObjectNode json = Json.readObject(model.resolve("tokenizer.json"), 1 << 26);
    try (GgufFile file = exported(model, GgufType.F16)) {
      assertEquals("gpt2", scalar(file, "tokenizer.ggml.model"));
      assertEquals("gpt-2", scalar(file, "tokenizer.ggml.pre"));
      List<Object> tokens = list(file, "tokenizer.ggml.tokens");
      List<Object> types = list(file, "tokenizer.ggml.token_type");
      assertEquals(30080, tokens.size());
      json.path("model")
          .path("vocab")
          .properties()
          .forEach(e -> assertEquals(e.getKey(), tokens.get(e.getValue().intValue())));
      assertEquals("[PAD30079]", tokens.get(30079));
      assertEquals(5L, types.get(30079));
      assertEquals(3L, types.get(1), "<|endoftext|> is a control token");
      assertEquals(1L, types.get(100));
      List<Object> merges = list(file, "tokenizer.ggml.merges");
      assertEquals(json.path("model").path("merges").size(), merges.size());
      assertEquals(json.path("model").path("merges").get(7).asText(), merges.get(7));
      assertEquals(1L, scalar(file, "tokenizer.ggml.eos_token_id"));
      assertEquals(false, scalar(file, "tokenizer.ggml.add_bos_token"));
    }
  }

  @Test
  void chatTemplatesGoAlong() throws IOException {
    Path model = llama(false, "");
    Files.writeString(model.resolve("chat_template.jinja"), "{{ messages }}");
    try (GgufFile file = exported(model, GgufType.F16)) {
      assertEquals("{{ messages }}", scalar(file, "tokenizer.chat_template"));
    }
  }

  /**
   * llama.cpp's names for the rules it knows; another rule is refused, because it would be wrong.
   */
  @Test
  void splittingRulesAreNamedOrRefused() throws IOException {
    Path model = neox();
    Path tokenizer = model.resolve("tokenizer.json");
    String original = Files.readString(tokenizer);
    ObjectNode json = Json.object(original, "tokenizer");
    String qwen =
        Json.compact(
            Json.readObject(
                    FixtureFiles.data("qwen2.5-0.5b-instruct-tokenizer-config/tokenizer.json"),
                    1 << 26)
                .path("pre_tokenizer"));
    json.set("pre_tokenizer", Json.value(qwen, "qwen"));
    Files.writeString(tokenizer, Json.compact(json));
    try (GgufFile file = exported(model, GgufType.F16)) {
      assertEquals("qwen2", scalar(file, "tokenizer.ggml.pre"));
    }
    json.set("pre_tokenizer", Json.value(qwen.replace("\\\\p{N}|", "\\\\p{N}{1,3}|"), "llama3"));
    Files.writeString(tokenizer, Json.compact(json));
    try (GgufFile file = exported(model, GgufType.F16)) {
      assertEquals("llama-bpe", scalar(file, "tokenizer.ggml.pre"));
    }
    json.set("pre_tokenizer", Json.value(qwen.replace("\\\\p{N}|", "\\\\p{N}{1,2}|"), "other"));
    Files.writeString(tokenizer, Json.compact(json));
    assertRefused(model, "pre_tokenizer: expected the rules of GPT-2, Llama 3 or Qwen 2");
  }

  // ------------------------------------------------------------------ refusals

  private void assertRefused(Path model, String... parts) {
    InputException e = assertThrows(InputException.class, () -> export(model, GgufType.F16));
    for (String part : parts) {
      assertTrue(String.valueOf(e.getMessage()).contains(part), e.getMessage());
    }
    assertEquals(1, String.valueOf(e.getMessage()).lines().count());
  }

  @Test
  void whatLlamaCppHasNoPlaceForIsRefused() throws IOException {
    Path model = llama(false, "");
    Path config = model.resolve("config.json");
    String json = Files.readString(config);
    Files.writeString(
        config, json.replace("\"rms_norm_eps\"", "\"hidden_act\":\"gelu\",\"rms_norm_eps\""));
    assertRefused(model, "hidden_act: expected silu");
    Files.writeString(config, json.replace("\"vocab_size\":2048", "\"vocab_size\":2000"));
    assertRefused(model, "vocab_size 2000");
    Files.writeString(config, json);
    Files.delete(model.resolve("tokenizer.json"));
    assertRefused(model, "expected tokenizer.json");
    assertFalse(Files.exists(folder.resolve("out.gguf")));
  }

  /** What counts are the layers that have one, not the switch. */
  @Test
  void aSlidingWindowIsRefused() throws IOException {
    Path model = folder.resolve("qwen");
    String sliding =
        SmallModel.llama(2048, 96, 2, 6, 2, 200)
            .replace("\"llama\"", "\"qwen2\"")
            .replace(
                "\"rms_norm_eps\"",
                "\"use_sliding_window\":true,\"max_window_layers\":1,\"rms_norm_eps\"");
    SmallModel.write(model, sliding, 9);
    copyTokenizer(FixtureFiles.data("tinystories-656k-llama-hf"), model);
    assertRefused(model, "use_sliding_window: expected false");
    assertFalse(Files.exists(folder.resolve("out.gguf")));
    Files.writeString(
        model.resolve("config.json"), sliding.replace("_layers\":1,", "_layers\":2,"));
    export(model, GgufType.F16);
  }

  @Test
  void valuesThatATypeCannotHoldAreRefused() throws IOException {
    Path model = llama(false, "");
    Path file = model.resolve(ModelCheckpoint.SINGLE_FILE);
    StoredTensors tensors = StoredTensors.read(file);
    byte[] bytes = tensors.get("model.layers.1.mlp.up_proj.weight").bytes();
    short large = FloatBits.toBf16(1e6f);
    bytes[0] = (byte) large;
    bytes[1] = (byte) (large >> 8);
    Files.delete(file);
    tensors.write(model);
    assertRefused(model, "model.layers.1.mlp.up_proj", "use --type bf16 or f32");
    assertFalse(Files.exists(folder.resolve("out.gguf")));
    export(model, GgufType.BF16);
  }
}
