// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.merge;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.gguf.GgufExporter;
import org.qlora4j.gguf.GgufFile;
import org.qlora4j.gguf.GgufType;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.merge.ModelMerger;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.CheckpointQuantizer;
import org.qlora4j.quant.DenseRows;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Interruption;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.SmallModel;
import org.qlora4j.tests.support.StoredTensors;

/** Adapters merged into 16-, 32- and 4-bit bases. */
class ModelMergerTest {
  private static final long ONE_FILE = 1 << 30;

  /**
   * Share of the largest logit. As in PeftOptionsTest; a merged weight adds one rounding of 2^-24
   * to each term of a sum, which is within what another order of the sum may do.
   */
  private static final double LOGITS = 6.5e-5;

  private final Path folder;

  ModelMergerTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private static Set<String> linears(Path model) {
    Set<String> linears = new LinkedHashSet<>();
    WeightNames.of(ModelConfig.read(model)).linears().forEach(m -> linears.add(m.weight()));
    return linears;
  }

  private static ModelMerger.Result merge(
      KernelPack pack,
      Path model,
      Path adapter,
      Path out,
      @Nullable QuantizationConfig base,
      @Nullable DType type,
      long shardBytes,
      Progress progress) {
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      Set<String> quantized = base == null ? Set.of() : linears(model);
      return new ModelMerger(pack, new ModelMerger.Options(base, quantized, type, shardBytes))
          .merge(checkpoint, model, adapter, out, progress);
    }
  }

  private static ModelMerger.Result merge(Path model, Path adapter, Path out) {
    return merge(Packs.reference(), model, adapter, out, null, null, ONE_FILE, Progress.none());
  }

  private static float[] logits(KernelPack pack, Path model, long[] ids, int rows) {
    try (TensorArena arena = new TensorArena(pack);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(model);
        DecoderModel loaded =
            ModelLoader.load(
                pack,
                ModelConfig.read(model),
                checkpoint,
                new ModelLoader.Options(DType.F32, null, false),
                Progress.none())) {
      int cols = ids.length / rows;
      int[] narrow = Arrays.stream(ids).mapToInt(Math::toIntExact).toArray();
      int[] positions = new int[ids.length];
      int[] starts = new int[rows + 1];
      for (int i = 0; i < ids.length; i++) {
        positions[i] = i % cols;
        starts[i / cols + 1] = i + 1;
      }
      Pass pass = Pass.inference(pack, arena, DType.F32, LoraCompute.F32);
      DeviceTensor hidden =
          loaded.forward(pass, SequenceBatch.of(arena, narrow, positions, starts), null);
      return loaded.logits(pass, hidden).toFloats();
    }
  }

  /**
   * PEFT's own merges. Tolerances are those of the fixtures' page: weights 1e-6 absolute (one small
   * matrix product), logits 2e-5.
   */
  @ParameterizedTest
  @ValueSource(strings = {"lora", "rslora_r4_qv_only", "dora_qv_only"})
  void weightsAndLogitsArePefts(String name) {
    Path fixture = Fixtures.topic("merge").use(name);
    Path model = FixtureFiles.reference("models/llama");
    for (String packName : Packs.names(true)) {
      if (!Packs.opens(packName)) {
        continue;
      }
      KernelPack pack = Packs.open(packName);
      Path out = folder.resolve(packName);
      ModelMerger.Result result =
          merge(
              pack, model, fixture.resolve("adapter"), out, null, null, ONE_FILE, Progress.none());
      assertEquals(name.startsWith("dora"), result.dora());
      try (ModelCheckpoint merged = ModelCheckpoint.open(out);
          ModelCheckpoint base = ModelCheckpoint.open(model);
          SafetensorsFile expected =
              SafetensorsFile.open(fixture.resolve("expected.safetensors"))) {
        assertEquals(base.names(), merged.names());
        int changed = 0;
        for (String tensor : base.names()) {
          TensorSource wanted = expected.find("merged." + tensor);
          if (wanted == null) {
            assertArrayEquals(
                base.tensor(tensor).toBytes(), merged.tensor(tensor).toBytes(), tensor);
            continue;
          }
          changed++;
          assertArrayEquals(
              wanted.toFloats(), merged.tensor(tensor).toFloats(), 1e-6f, packName + tensor);
          assertFalse(
              Arrays.equals(base.tensor(tensor).toBytes(), merged.tensor(tensor).toBytes()));
        }
        assertEquals(result.mergedWeights(), changed);
        TensorSource ids = expected.tensor("input_ids");
        if (pack.supports("linear_forward") && pack.supports("rotary")) {
          assertArrayEquals(
              expected.tensor("logits_merged").toFloats(),
              logits(pack, out, ids.toLongs(), (int) ids.shape()[0]),
              2e-5f,
              packName);
        }
      }
    }
  }

  /** From 4 bits: the dequantized weight, not rounded, plus the product, rounded once. */
  @Test
  void fourBitWeightsAreDequantized() throws IOException {
    Path model = FixtureFiles.reference("bnb_checkpoint/llama");
    Path adapter = FixtureFiles.reference("merge/lora/adapter");
    Path out = folder.resolve("out");
    KernelPack pack = Packs.reference();
    ModelMerger.Result result = merge(model, adapter, out);
    assertEquals(DType.BF16, result.type());
    ObjectNode config = Json.readObject(out.resolve("config.json"), 1 << 20);
    assertFalse(config.has("quantization_config"));
    assertEquals("bfloat16", config.path("dtype").asText());
    try (ModelCheckpoint base = ModelCheckpoint.open(model);
        ModelCheckpoint merged = ModelCheckpoint.open(out);
        SafetensorsFile lora = SafetensorsFile.open(adapter.resolve("adapter_model.safetensors"))) {
      WeightNames names = WeightNames.of(ModelConfig.read(out));
      names.check(merged);
      for (WeightNames.Module module : names.linears()) {
        assertEquals(0, QuantizedTensors.storedBits(merged, module.weight()));
        float[] a = lora.tensor("base_model.model." + module.path() + ".lora_A.weight").toFloats();
        float[] b = lora.tensor("base_model.model." + module.path() + ".lora_B.weight").toFloats();
        int cols = (int) module.cols();
        float[] dense = new float[(int) (module.rows() * cols)];
        try (DenseRows rows = DenseRows.of(pack, QuantizedTensors.of(base, module.weight()))) {
          rows.read(0, (int) module.rows(), dense);
        }
        float[] found = merged.tensor(module.weight()).toFloats();
        for (int i = 0; i < dense.length; i++) {
          double sum = dense[i];
          for (int k = 0; k < 8; k++) {
            sum += 2.0 * b[i / cols * 8 + k] * a[k * cols + i % cols];
          }
          // Half a unit in the last of bf16's 8 bits, and a little for the f32 sum before it.
          assertEquals(sum, found[i], Math.abs(sum) * (0x1p-8 + 1e-6) + 1e-7, module.path());
        }
      }
    }
  }

  private Path adapterOf(WeightNames names, String... targets) throws IOException {
    Path adapter = folder.resolve("adapter");
    Files.createDirectories(adapter);
    Files.writeString(
        adapter.resolve("adapter_config.json"),
        "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6, \"target_modules\": []}");
    StoredTensors tensors = new StoredTensors();
    Random random = new Random(3);
    for (WeightNames.Module module :
        TargetModules.of(List.of(targets)).select(names.linears(), WeightNames.Module::path)) {
      String prefix = "base_model.model." + module.path();
      tensors.put(
          prefix + ".lora_A.weight",
          StoredType.F32,
          normal(random, 3 * module.cols()),
          3,
          module.cols());
      tensors.put(
          prefix + ".lora_B.weight",
          StoredType.F32,
          normal(random, 3 * module.rows()),
          module.rows(),
          3);
    }
    Files.move(
        tensors.write(folder).resolve(ModelCheckpoint.SINGLE_FILE),
        adapter.resolve("adapter_model.safetensors"));
    return adapter;
  }

  private static byte[] normal(Random random, long count) {
    ByteBuffer bytes = ByteBuffer.allocate((int) count * 4).order(ByteOrder.LITTLE_ENDIAN);
    for (long i = 0; i < count; i++) {
      bytes.putFloat((float) random.nextGaussian() * 0.1f);
    }
    return bytes.array();
  }

  /** The two ways to a quantized base meet: quantized on the way, and stored quantized. */
  @ParameterizedTest
  @ValueSource(strings = {"NF4", "FP4"})
  void aBaseQuantizedOnTheWayIsTheStoredOne(String format) throws IOException {
    Path dense = folder.resolve("dense");
    SmallModel.write(dense, SmallModel.llama(64, 96, 2, 4, 2, 72), 5);
    WeightNames names = WeightNames.of(ModelConfig.read(dense));
    Path adapter = adapterOf(names, "q_proj", "down_proj");
    QuantizationConfig config =
        new QuantizationConfig(WeightFormat.valueOf(format), 64, format.equals("NF4"));
    KernelPack pack = Packs.reference();
    Path stored = folder.resolve("stored");
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(dense)) {
      new CheckpointQuantizer(pack, config)
          .quantize(checkpoint, linears(dense), dense, stored, ONE_FILE, Progress.none());
    }
    Path a = folder.resolve("a");
    Path b = folder.resolve("b");
    merge(pack, dense, adapter, a, config, DType.F32, ONE_FILE, Progress.none());
    merge(pack, stored, adapter, b, null, DType.F32, ONE_FILE, Progress.none());
    StoredTensors first = StoredTensors.read(a.resolve(ModelCheckpoint.SINGLE_FILE));
    StoredTensors second = StoredTensors.read(b.resolve(ModelCheckpoint.SINGLE_FILE));
    assertEquals(first.tensors().keySet(), second.tensors().keySet());
    first
        .tensors()
        .forEach(
            (name, tensor) -> assertArrayEquals(tensor.bytes(), second.get(name).bytes(), name));
    assertTrue(first.tensors().values().stream().allMatch(t -> t.type() == StoredType.F32));
    // And it is another one than the original.
    Path c = folder.resolve("c");
    merge(pack, dense, adapter, c, null, DType.F32, ONE_FILE, Progress.none());
    StoredTensors third = StoredTensors.read(c.resolve(ModelCheckpoint.SINGLE_FILE));
    String q = "model.layers.0.self_attn.q_proj.weight";
    assertFalse(Arrays.equals(first.get(q).bytes(), third.get(q).bytes()));
  }

  /**
   * The merged model is the adapted one: logits that PEFT computed with the adapter beside an NF4
   * base. Tolerance as in PeftAdapterTest: logits reach 26, and a merged weight adds one rounding
   * of 2^-24 to each of its sums.
   */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void theMergedModelIsTheAdaptedOne(boolean quantized) throws URISyntaxException {
    Path adapter =
        Path.of(
                Objects.requireNonNull(
                        ModelMergerTest.class.getResource("/peft_adapter/adapter_config.json"))
                    .toURI())
            .resolveSibling(".")
            .normalize();
    Path model = FixtureFiles.project("examples/model");
    Path out = folder.resolve("out");
    KernelPack pack = Packs.reference();
    merge(
        pack,
        model,
        adapter,
        out,
        quantized ? QuantizationConfig.nf4() : null,
        DType.F32,
        ONE_FILE,
        Progress.none());
    try (SafetensorsFile expected = SafetensorsFile.open(adapter.resolve("expected.safetensors"))) {
      float[] last = expected.tensor(quantized ? "logits_nf4_last4" : "logits_last4").toFloats();
      float[] all = logits(pack, out, expected.tensor("input_ids").toLongs(), 1);
      assertArrayEquals(last, Arrays.copyOfRange(all, all.length - last.length, all.length), 5e-4f);
    }
  }

  private static Path options(String name) throws URISyntaxException {
    String file = "/peft_options/" + name + "/adapter_config.json";
    Path path = Path.of(Objects.requireNonNull(ModelMergerTest.class.getResource(file)).toURI());
    return Objects.requireNonNull(path.getParent());
  }

  private static void close(float[] expected, float[] actual) {
    double largest = 0;
    for (float value : expected) {
      largest = Math.max(largest, Math.abs(value));
    }
    assertTrue(largest > 0, "all logits are zero");
    assertArrayEquals(expected, actual, (float) (LOGITS * largest));
  }

  /** Logits that PEFT computed with the adapter beside the base; what was trained in full is in. */
  @ParameterizedTest
  @CsvSource({
    "llama_dora_patterns, models/llama, 5, false",
    "llama_rslora_head, models/llama, 2, false",
    "llama_tied_embedding, models/llama3_tied, 4, true",
    "llama_tied_head_adapter, models/llama3_tied, 3, true",
    "neox_bias_all, models/neox_polyglot, 2, false",
    "neox_bias_lora_only_dora, models/neox_polyglot, 8, false"
  })
  void optionsOfPeftAreMerged(String name, String base, int pairs, boolean separated)
      throws URISyntaxException {
    Path model = FixtureFiles.reference(base);
    Path out = folder.resolve("out");
    KernelPack pack = Packs.reference();
    ModelMerger.Result result =
        merge(pack, model, options(name), out, null, DType.F32, ONE_FILE, Progress.none());
    assertEquals(pairs, result.mergedWeights());
    assertEquals(separated, result.headSeparated());
    ObjectNode config = Json.readObject(out.resolve("config.json"), 1 << 20);
    try (PeftAdapterFile adapter = PeftAdapterFile.open(options(name));
        ModelCheckpoint before = ModelCheckpoint.open(model);
        ModelCheckpoint merged = ModelCheckpoint.open(out);
        SafetensorsFile expected =
            SafetensorsFile.open(options(name).resolve("expected.safetensors"))) {
      assertEquals(adapter.copies().size(), result.replacedTensors());
      Set<String> names = new TreeSet<>(before.names());
      if (separated) {
        names.add("lm_head.weight");
        assertFalse(config.path("tie_word_embeddings").asBoolean(true));
      }
      assertEquals(names, new TreeSet<>(merged.names()));
      for (String tensor : names) {
        TensorSource copy = adapter.copies().get(tensor);
        boolean ofHead = separated && tensor.equals("lm_head.weight");
        TensorSource source =
            ofHead ? before.tensor("model.embed_tokens.weight") : before.find(tensor);
        boolean added = adapter.find(tensor.replaceFirst("\\.weight$", "")) != null;
        float[] wanted = Objects.requireNonNull(copy == null ? source : copy).toFloats();
        float[] found = merged.tensor(tensor).toFloats();
        assertEquals(!added, Arrays.equals(wanted, found), tensor);
      }
      float[] last = expected.tensor("logits_last4").toFloats();
      float[] all = logits(pack, out, expected.tensor("input_ids").toLongs(), 1);
      close(last, Arrays.copyOfRange(all, all.length - last.length, all.length));
    }
  }

  /**
   * A head adapter with an embedding that is not the base's: PEFT loads it over the base's, and a
   * tied embedding is loaded with its head.
   */
  @Test
  void anEmbeddingThatWasSavedAlongIsTheModels() throws URISyntaxException {
    Path model = FixtureFiles.reference("models/llama3_tied");
    Path adapter = options("llama_tied_head_saved");
    Path out = folder.resolve("out");
    KernelPack pack = Packs.reference();
    ModelMerger.Result result =
        merge(pack, model, adapter, out, null, DType.F32, ONE_FILE, Progress.none());
    assertEquals(3, result.mergedWeights());
    assertEquals(0, result.replacedTensors());
    // The embedding and the head.
    assertEquals(2, result.savedTensors());
    assertTrue(result.headSeparated());
    try (PeftAdapterFile file = PeftAdapterFile.open(adapter);
        ModelCheckpoint before = ModelCheckpoint.open(model);
        ModelCheckpoint merged = ModelCheckpoint.open(out);
        SafetensorsFile expected = SafetensorsFile.open(adapter.resolve("expected.safetensors"))) {
      assertEquals(Set.of("lm_head.weight"), file.saved().keySet());
      float[] saved = Objects.requireNonNull(file.saved().get("lm_head.weight")).toFloats();
      String embedding = "model.embed_tokens.weight";
      assertFalse(Arrays.equals(saved, before.tensor(embedding).toFloats()), "another one");
      assertArrayEquals(saved, merged.tensor(embedding).toFloats());
      float[] last = expected.tensor("logits_last4").toFloats();
      float[] all = logits(pack, out, expected.tensor("input_ids").toLongs(), 1);
      close(last, Arrays.copyOfRange(all, all.length - last.length, all.length));
    }
  }

  private Path withTensors(Path adapter, StoredTensors tensors) throws IOException {
    Path copy = Files.createDirectory(folder.resolve("with-tensors"));
    Files.copy(adapter.resolve("adapter_config.json"), copy.resolve("adapter_config.json"));
    Files.move(
        tensors.write(copy).resolve(ModelCheckpoint.SINGLE_FILE),
        copy.resolve(PeftAdapterFile.WEIGHTS_FILE));
    return copy;
  }

  /** Saved along as the base has it, an embedding changes nothing. */
  @Test
  void theBasesOwnEmbeddingSavedAlongChangesNothing() throws IOException, URISyntaxException {
    Path model = FixtureFiles.reference("models/llama3_tied");
    Path adapter = options("llama_tied_head_adapter");
    StoredTensors tensors = StoredTensors.read(adapter.resolve(PeftAdapterFile.WEIGHTS_FILE));
    StoredTensors.Tensor own =
        StoredTensors.read(model.resolve(ModelCheckpoint.SINGLE_FILE))
            .get("model.embed_tokens.weight");
    String head = PeftAdapterFile.PREFIX + "lm_head.base_layer.weight";
    Path with = withTensors(adapter, tensors.put(head, own.type(), own.bytes(), own.shape()));
    merge(model, adapter, folder.resolve("a"));
    assertEquals(0, merge(model, with, folder.resolve("b")).savedTensors());
    assertEquals(
        -1,
        Files.mismatch(
            folder.resolve("a").resolve(ModelCheckpoint.SINGLE_FILE),
            folder.resolve("b").resolve(ModelCheckpoint.SINGLE_FILE)));
  }

  /** Without an adapter of the head, embedding and head stay one tensor. */
  @Test
  void aTiedEmbeddingSavedAlongStaysTied() throws IOException {
    Path tied = folder.resolve("tied");
    SmallModel.write(tied, tied(64), 5);
    Path adapter = adapterOf(WeightNames.of(ModelConfig.read(tied)), "q_proj");
    StoredTensors tensors = StoredTensors.read(adapter.resolve(PeftAdapterFile.WEIGHTS_FILE));
    byte[] other = new byte[64 * 96 * 2];
    new Random(6).nextBytes(other);
    for (int i = 1; i < other.length; i += 2) {
      other[i] &= 0x3f; // finite
    }
    String embedding = PeftAdapterFile.PREFIX + "model.embed_tokens.weight";
    String head = PeftAdapterFile.PREFIX + "lm_head.weight";
    tensors.put(embedding, StoredType.BF16, other, 64, 96);
    tensors.put(head, StoredType.BF16, other, 64, 96);
    Path out = folder.resolve("out");
    ModelMerger.Result result = merge(tied, withTensors(adapter, tensors), out);
    assertFalse(result.headSeparated());
    assertEquals(1, result.savedTensors());
    try (ModelCheckpoint before = ModelCheckpoint.open(tied);
        ModelCheckpoint merged = ModelCheckpoint.open(out)) {
      assertEquals(Set.copyOf(before.names()), Set.copyOf(merged.names()));
      assertArrayEquals(other, merged.tensor("model.embed_tokens.weight").toBytes());
    }
    Files.delete(folder.resolve("with-tensors/adapter_model.safetensors"));
    Files.delete(folder.resolve("with-tensors/adapter_config.json"));
    Files.delete(folder.resolve("with-tensors"));
    byte[] third = other.clone();
    third[0]++;
    Path apart = withTensors(adapter, tensors.put(head, StoredType.BF16, third, 64, 96));
    assertRefused(tied, apart, null, "expected the same values", "lm_head.weight");
    rewrite(
        tensors.put(head, StoredType.BF16, new byte[32 * 96 * 2], 32, 96),
        apart.resolve(PeftAdapterFile.WEIGHTS_FILE));
    assertRefused(tied, apart, null, "expected the same values");
    rewrite(tensors.remove(embedding), apart.resolve(PeftAdapterFile.WEIGHTS_FILE));
    assertRefused(tied, apart, null, "is [32, 96], the model has BF16 [64, 96]");
  }

  /** What an adapter of every option computes beside its base, and merged into it. */
  @ParameterizedTest
  @CsvSource({
    "models/neox_polyglot, false, true, embed_in embed_out norm, query_key_value",
    "models/neox_polyglot, true, true, embed_in norm, query_key_value",
    "models/neox_polyglot, false, false, dense_h_to_4h norm, dense",
    "models/llama3_tied, true, false, embed_tokens lm_head, q_proj",
    "models/llama3_tied, false, true, lm_head norm, down_proj"
  })
  void theMergedModelIsTheOneThatWasTrained(
      String base, boolean quantized, boolean dora, String saved, String other) throws IOException {
    Path model = FixtureFiles.reference(base);
    LoraConfig config =
        new LoraConfig(
            4,
            8,
            0,
            true,
            TargetModules.of(List.of()),
            Map.of("layers.1.*" + other, 3),
            Map.of(other, 5.0),
            dora,
            LoraConfig.Bias.ALL,
            List.of(saved.split(" ")),
            LoraInit.DEFAULT);
    QuantizationConfig quantization = quantized ? QuantizationConfig.nf4() : null;
    Path directory = Files.createDirectories(folder.resolve("adapter"));
    long[] ids = {5, 9, 31, 7, 200, 13, 2};
    float[] adapted;
    try (KernelPack pack = KernelPack.openAutomatic();
        TensorArena arena = new TensorArena(pack);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(model);
        DecoderModel loaded =
            ModelLoader.load(
                pack,
                ModelConfig.read(model),
                checkpoint,
                new ModelLoader.Options(DType.F32, quantization, false),
                Progress.none());
        LoraAdapter adapter = LoraAdapter.allocate(pack, config, loaded)) {
      adapter.initialise(3);
      Random random = new Random(4);
      for (Parameter parameter : adapter.parameters().parameters()) {
        float[] values = parameter.value().toFloats();
        for (int i = 0; i < values.length; i++) {
          values[i] += (float) random.nextGaussian() * 0.05f;
        }
        parameter.value().copyFrom(values);
      }
      adapter.save(directory, base);
      adapter.attach(loaded.linears());
      Pass pass = Pass.inference(pack, arena, DType.F32, LoraCompute.F32);
      int[] narrow = Arrays.stream(ids).mapToInt(Math::toIntExact).toArray();
      DeviceTensor hidden = loaded.forward(pass, SequenceBatch.single(arena, narrow, 0), null);
      adapted = loaded.logits(pass, hidden).toFloats();
    }
    Path out = folder.resolve("out");
    try (KernelPack pack = KernelPack.openAutomatic()) {
      merge(pack, model, directory, out, quantization, DType.F32, ONE_FILE, Progress.none());
      close(adapted, logits(pack, out, ids, 1));
    }
  }

  private static String tied(int vocab) {
    return SmallModel.llama(vocab, 96, 1, 4, 2, 72)
        .replace("_embeddings\":false", "_embeddings\":true");
  }

  /** A head that has become a tensor of its own is one in llama.cpp's format too. */
  @Test
  void aSeparatedHeadIsExported() throws IOException {
    Path model = folder.resolve("tied");
    SmallModel.write(model, tied(2048), 5);
    for (String file : List.of("tokenizer.json", "tokenizer_config.json")) {
      Files.copy(FixtureFiles.data("tinystories-656k-llama-hf").resolve(file), model.resolve(file));
    }
    Path adapter = adapterOf(WeightNames.of(ModelConfig.read(model)), "q_proj");
    Path options = adapter.resolve("adapter_config.json");
    Files.writeString(
        options,
        Files.readString(options).replace("{", "{\"modules_to_save\": [\"embed_tokens\"], "));
    Path weights = adapter.resolve("adapter_model.safetensors");
    StoredTensors tensors = StoredTensors.read(weights);
    byte[] embedding = normal(new Random(7), 2048 * 96);
    tensors.put(
        PeftAdapterFile.PREFIX + "model.embed_tokens.weight", StoredType.F32, embedding, 2048, 96);
    rewrite(tensors, weights);
    Path out = folder.resolve("out");
    KernelPack pack = Packs.reference();
    merge(pack, model, adapter, out, null, DType.F32, ONE_FILE, Progress.none());
    Path gguf = folder.resolve("out.gguf");
    new GgufExporter(pack, GgufType.F32).export(out, gguf, Progress.none());
    try (GgufFile file = GgufFile.open(gguf);
        ModelCheckpoint base = ModelCheckpoint.open(model)) {
      assertArrayEquals(embedding, file.read(file.tensor("token_embd.weight")));
      byte[] head = file.read(file.tensor("output.weight"));
      float[] values = new float[2048 * 96];
      ByteBuffer.wrap(head).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
      assertArrayEquals(base.tensor("model.embed_tokens.weight").toFloats(), values);
    }
  }

  /** Large tensors come in several pieces of rows; the pieces are where they belong. */
  @Test
  void piecesOfALargeWeightAreWhereTheyBelong() throws IOException {
    Path dense = folder.resolve("dense");
    // 1,100 x 1,024 elements: more than the million that are held at a time.
    SmallModel.write(dense, SmallModel.llama(16, 1024, 1, 8, 2, 1100), 5);
    WeightNames names = WeightNames.of(ModelConfig.read(dense));
    Path adapter = adapterOf(names, "up_proj");
    Path out = folder.resolve("out");
    KernelPack pack = KernelPack.openAutomatic();
    merge(pack, dense, adapter, out, null, null, ONE_FILE, Progress.none());
    pack.close();
    String up = "model.layers.0.mlp.up_proj";
    try (ModelCheckpoint base = ModelCheckpoint.open(dense);
        ModelCheckpoint merged = ModelCheckpoint.open(out);
        SafetensorsFile lora = SafetensorsFile.open(adapter.resolve("adapter_model.safetensors"))) {
      float[] a = lora.tensor("base_model.model." + up + ".lora_A.weight").toFloats();
      float[] b = lora.tensor("base_model.model." + up + ".lora_B.weight").toFloats();
      float[] before = base.tensor(up + ".weight").toFloats();
      float[] after = merged.tensor(up + ".weight").toFloats();
      for (int i = 0; i < before.length; i++) {
        double sum = before[i];
        for (int k = 0; k < 3; k++) {
          sum += 2.0 * b[i / 1024 * 3 + k] * a[k * 1024 + i % 1024];
        }
        assertEquals(sum, after[i], Math.abs(sum) * (0x1p-8 + 1e-6) + 1e-7, "element " + i);
      }
    }
  }

  @Test
  void interruptedMergesGoOnAndShardsAreListed() throws IOException {
    Path model = FixtureFiles.reference("models/llama");
    Path adapter = FixtureFiles.reference("merge/lora/adapter");
    KernelPack pack = Packs.reference();
    Path whole = folder.resolve("whole");
    ModelMerger.Result first =
        merge(pack, model, adapter, whole, null, null, 60_000, Progress.none());
    assertTrue(first.files() > 3, first.toString());
    assertTrue(Files.exists(whole.resolve(ModelCheckpoint.INDEX_FILE)));
    Path out = folder.resolve("out");
    assertThrows(
        IllegalStateException.class,
        () -> merge(pack, model, adapter, out, null, null, 60_000, new Interruption(9)));
    assertFalse(Files.exists(out));
    ModelMerger.Result second =
        merge(pack, model, adapter, out, null, null, 60_000, Progress.none());
    assertTrue(second.resumedFiles() > 0, second.toString());
    try (Stream<Path> files = Files.list(whole)) {
      for (Path file : files.toList()) {
        assertArrayEquals(
            Files.readAllBytes(file),
            Files.readAllBytes(out.resolve(file.getFileName().toString())),
            file.toString());
      }
    }
    // Another adapter is other work.
    Path other = folder.resolve("other");
    assertThrows(
        IllegalStateException.class,
        () -> merge(pack, model, adapter, other, null, null, 60_000, new Interruption(9)));
    Path rslora = FixtureFiles.reference("merge/rslora_r4_qv_only/adapter");
    assertEquals(
        0, merge(pack, model, rslora, other, null, null, 60_000, Progress.none()).resumedFiles());
  }

  /** Weights are found by name: shards of an architecture that needs not be known. */
  @Test
  void shardsOfAnyArchitectureAreRead() {
    Path model = FixtureFiles.reference("models/mistral");
    Path adapter = FixtureFiles.reference("merge/rslora_r4_qv_only/adapter");
    Path out = folder.resolve("out");
    merge(model, adapter, out);
    try (ModelCheckpoint base = ModelCheckpoint.open(model);
        ModelCheckpoint merged = ModelCheckpoint.open(out);
        SafetensorsFile lora = SafetensorsFile.open(adapter.resolve("adapter_model.safetensors"))) {
      assertEquals(base.names(), merged.names());
      for (String name : base.names()) {
        float[] before = base.tensor(name).toFloats();
        float[] after = merged.tensor(name).toFloats();
        boolean adapted = name.endsWith("q_proj.weight") || name.endsWith("v_proj.weight");
        if (!adapted) {
          assertArrayEquals(before, after, name);
          continue;
        }
        String path = "base_model.model." + name.substring(0, name.length() - ".weight".length());
        float[] a = lora.tensor(path + ".lora_A.weight").toFloats();
        float[] b = lora.tensor(path + ".lora_B.weight").toFloats();
        for (int i = 0; i < before.length; i++) {
          double sum = before[i];
          for (int k = 0; k < 4; k++) {
            sum += 8.0 * b[i / 64 * 4 + k] * a[k * 64 + i % 64];
          }
          // Half a unit in the last of bf16's 8 bits, and a little for the f32 sum before it.
          assertEquals(sum, after[i], Math.abs(sum) * (0x1p-8 + 1e-6) + 1e-7, name + " " + i);
        }
      }
    }
  }

  // ------------------------------------------------------------------ refusals

  private void assertRefused(Path model, Path adapter, @Nullable DType type, String... parts) {
    InputException e =
        assertThrows(
            InputException.class,
            () ->
                merge(
                    Packs.reference(),
                    model,
                    adapter,
                    folder.resolve("refused"),
                    null,
                    type,
                    ONE_FILE,
                    Progress.none()));
    for (String part : parts) {
      assertTrue(String.valueOf(e.getMessage()).contains(part), e.getMessage());
    }
    assertFalse(Files.exists(folder.resolve("refused")));
    assertFalse(Files.exists(folder.resolve(".refused.q4j-part")));
  }

  @Test
  void adaptersThatDoNotFitAreRefused() throws IOException {
    Path dense = folder.resolve("dense");
    SmallModel.write(dense, SmallModel.llama(64, 96, 1, 4, 2, 72), 5);
    Path adapter = adapterOf(WeightNames.of(ModelConfig.read(dense)), "q_proj");
    Path weights = adapter.resolve("adapter_model.safetensors");
    String q = "base_model.model.model.layers.0.self_attn.q_proj";
    Path other = folder.resolve("other");
    SmallModel.write(other, SmallModel.llama(64, 64, 1, 4, 2, 72), 5);
    assertRefused(other, adapter, null, "[96, 96], the model has [64, 64]", "another base");
    Path neox = FixtureFiles.reference("models/neox_polyglot");
    assertRefused(neox, adapter, null, "no such weight");

    StoredTensors tensors = StoredTensors.read(weights);
    rewrite(tensors.put("x.lora_A.weight", StoredType.F32, new byte[12], 3, 1), weights);
    assertRefused(dense, adapter, null, "x.lora_A.weight", "not supported");
    tensors.remove("x.lora_A.weight");
    rewrite(tensors.put(q + ".lora_magnitude_vector", StoredType.F32, new byte[384], 96), weights);
    assertRefused(dense, adapter, null, "lora_magnitude_vector", "not supported");

    Path config = adapter.resolve("adapter_config.json");
    String json = Files.readString(config);
    Files.writeString(config, json.replace("{", "{\"use_dora\": true, "));
    rewrite(tensors.put(q + ".lora_magnitude_vector", StoredType.F32, new byte[380], 95), weights);
    assertRefused(dense, adapter, null, "expected 96 magnitudes", "found [95]");
    rewrite(tensors.remove(q + ".lora_magnitude_vector"), weights);
    assertRefused(dense, adapter, null, "lora_magnitude_vector");
    Files.writeString(config, json.replace("{", "{\"lora_bias\": true, "));
    assertRefused(dense, adapter, null, "lora_bias");
    Files.writeString(config, json.replace("\"r\": 3", "\"r\": 4"));
    assertRefused(dense, adapter, null, "expected [4, in] for r = 4", "found [3, 96]");
    Files.writeString(config, json.replace("{", "{\"rank_pattern\": {\"q_proj\": 7}, "));
    assertRefused(dense, adapter, null, "expected [7, in] for r = 7", "found [3, 96]");
    for (String init : List.of("pissa", "pissa_niter_4", "olora", "corda", "loftq")) {
      Files.writeString(config, json.replace("{", "{\"init_lora_weights\": \"" + init + "\", "));
      assertRefused(dense, adapter, null, "init_lora_weights", init, "have PEFT convert it");
    }
    Files.writeString(config, json.replace("LORA", "IA3"));
    assertRefused(dense, adapter, null, "peft_type");
  }

  private void rewrite(StoredTensors tensors, Path weights) throws IOException {
    Files.delete(weights);
    Files.move(tensors.write(folder).resolve(ModelCheckpoint.SINGLE_FILE), weights);
  }

  @Test
  void trainedTensorsWithoutAPlaceAreRefused() throws IOException {
    Path dense = folder.resolve("dense");
    SmallModel.write(dense, SmallModel.llama(64, 96, 1, 4, 2, 72), 5);
    Path adapter = adapterOf(WeightNames.of(ModelConfig.read(dense)), "q_proj");
    Path weights = adapter.resolve("adapter_model.safetensors");
    Path config = adapter.resolve("adapter_config.json");
    String json = Files.readString(config);
    Files.writeString(
        config, json.replace("{", "{\"bias\": \"all\", \"modules_to_save\": [\"model.norm\"], "));
    StoredTensors tensors = StoredTensors.read(weights);
    String norm = PeftAdapterFile.PREFIX + "model.norm.weight";
    assertRefused(dense, adapter, null, norm, "modules_to_save names, found none");
    rewrite(tensors.put(norm, StoredType.F32, new byte[380], 95), weights);
    assertRefused(dense, adapter, null, norm, "is [95], the model has BF16 [96] there");
    tensors.put(norm, StoredType.F32, new byte[384], 96);
    String bias = "model.layers.0.self_attn.k_proj.bias";
    rewrite(tensors.put(PeftAdapterFile.PREFIX + bias, StoredType.F32, new byte[192], 48), weights);
    assertRefused(dense, adapter, null, bias, "the model has no such tensor", "another base");
    rewrite(tensors.remove(PeftAdapterFile.PREFIX + bias), weights);
    Files.writeString(
        config, json.replace("{", "{\"modules_to_save\": [\"model.norm\", \"score\"], "));
    assertRefused(dense, adapter, null, "'score'", "modules_to_save names, found none");
    Files.writeString(
        config, json.replace("{", "{\"modules_to_save\": [\"model.norm\", \"q_proj\"], "));
    String q = PeftAdapterFile.PREFIX + "model.layers.0.self_attn.q_proj.weight";
    rewrite(tensors.put(q, StoredType.F32, new byte[96 * 96 * 4], 96, 96), weights);
    assertRefused(dense, adapter, null, "q_proj", "found both");
  }

  /** PEFT has other tensors for embeddings. */
  @Test
  void anAdapterOfATiedEmbeddingIsRefused() throws IOException {
    Path tied = folder.resolve("tied");
    SmallModel.write(tied, tied(64), 5);
    Path adapter = adapterOf(WeightNames.of(ModelConfig.read(tied)), "q_proj");
    Path weights = adapter.resolve("adapter_model.safetensors");
    StoredTensors tensors = StoredTensors.read(weights);
    String embedding = "base_model.model.model.embed_tokens";
    tensors.put(embedding + ".lora_A.weight", StoredType.F32, new byte[3 * 96 * 4], 3, 96);
    tensors.put(embedding + ".lora_B.weight", StoredType.F32, new byte[64 * 3 * 4], 64, 3);
    rewrite(tensors, weights);
    assertRefused(tied, adapter, null, "embed_tokens", "an embedding");
  }

  @Test
  void whatFloat16CannotHoldIsRefused() throws IOException {
    Path dense = folder.resolve("dense");
    SmallModel.write(dense, SmallModel.llama(64, 96, 1, 4, 2, 72), 5);
    Path adapter = adapterOf(WeightNames.of(ModelConfig.read(dense)), "q_proj");
    StoredTensors tensors = StoredTensors.read(dense.resolve(ModelCheckpoint.SINGLE_FILE));
    String norm = "model.layers.0.input_layernorm.weight";
    short large = FloatBits.toBf16(1e6f);
    byte[] bytes = tensors.get(norm).bytes();
    bytes[0] = (byte) large;
    bytes[1] = (byte) (large >> 8);
    Files.delete(dense.resolve(ModelCheckpoint.SINGLE_FILE));
    tensors.write(dense);
    assertRefused(dense, adapter, DType.F16, norm, "65504", "--dtype bfloat16");
    merge(
        Packs.reference(),
        dense,
        adapter,
        folder.resolve("bf16"),
        null,
        DType.BF16,
        ONE_FILE,
        Progress.none());
  }
}
