// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.lora;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.ModelAdapters;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.model.WeightNames;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.SmallModel;
import org.qlora4j.tests.support.StoredTensors;

/**
 * Adapters that PEFT made, with options beyond plain LoRA, over the fixtures' models: the logits,
 * the loss and the gradient of everything that is trained are PEFT's, and what is written of them
 * is what PEFT wrote.
 *
 * <p>Error model, fp32 on both sides: sums of at most 512 terms in another order, a dozen in a row
 * along two layers: 2^-24 * sqrt(512) * 12 * 4 (the tail of thousands of elements) is 6.5e-5 of the
 * largest magnitude; the gradients go the way twice.
 */
class PeftOptionsTest {
  private static final double LOGITS = 6.5e-5;
  private static final double GRADIENTS = 1.3e-4;

  private final Path folder;
  private KernelPack pack;
  private TensorArena arena;

  PeftOptionsTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @BeforeEach
  void open() {
    pack = KernelPack.openAutomatic();
    arena = new TensorArena(pack);
  }

  @AfterEach
  void close() {
    arena.close();
    pack.close();
  }

  private static Path adapter(String name) throws URISyntaxException {
    String file = "/peft_options/" + name + "/adapter_config.json";
    Path path = Path.of(Objects.requireNonNull(PeftOptionsTest.class.getResource(file)).toURI());
    return Objects.requireNonNull(path.getParent());
  }

  private DecoderModel model(String base) {
    return model(base, Long.MAX_VALUE);
  }

  private DecoderModel model(String base, long embeddingInFile) {
    return model(FixtureFiles.reference(base), embeddingInFile);
  }

  private DecoderModel model(Path directory, long embeddingInFile) {
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
      return ModelLoader.load(
          pack,
          ModelConfig.read(directory),
          checkpoint,
          new ModelLoader.Options(DType.F32, null, false, embeddingInFile),
          Progress.none());
    }
  }

  private float[] lastLogits(DecoderModel model, int[] ids) {
    Pass pass = Pass.inference(pack, arena, DType.F32, LoraCompute.F32);
    var mark = arena.mark();
    DeviceTensor hidden = model.forward(pass, SequenceBatch.single(arena, ids, 0), null);
    float[] logits = model.logits(pass, hidden.rows(ids.length - 4L, 4)).toFloats();
    arena.release(mark);
    return logits;
  }

  private static int[] ids(SafetensorsFile expected) {
    return Arrays.stream(expected.tensor("input_ids").toLongs()).mapToInt(i -> (int) i).toArray();
  }

  private static void close(String what, float[] expected, float[] actual, double tolerance) {
    double largest = 0;
    for (float value : expected) {
      largest = Math.max(largest, Math.abs(value));
    }
    assertTrue(largest > 0, what + " is all zero");
    assertArrayEquals(expected, actual, (float) (tolerance * largest), what);
  }

  @ParameterizedTest
  @CsvSource({
    "llama_dora_patterns, models/llama",
    "llama_rslora_head, models/llama",
    "llama_tied_embedding, models/llama3_tied",
    "neox_bias_all, models/neox_polyglot",
    "neox_bias_lora_only_dora, models/neox_polyglot"
  })
  void computeWhatPeftComputes(String name, String base) throws URISyntaxException, IOException {
    Path directory = adapter(name);
    try (DecoderModel model = model(base);
        LoraAdapter adapter = LoraAdapter.load(pack, directory, model);
        SafetensorsFile expected =
            SafetensorsFile.open(directory.resolve("expected.safetensors"))) {
      int[] ids = ids(expected);
      close("logits", expected.tensor("logits_last4").toFloats(), lastLogits(model, ids), LOGITS);

      adapter.parameters().allocateGradients();
      int[] labels = new int[ids.length];
      System.arraycopy(ids, 1, labels, 0, ids.length - 1);
      labels[ids.length - 1] = -100;
      float scale = 1f / (ids.length - 1);
      Pass pass = new Pass(pack, arena, DType.F32, LoraCompute.F32, 0, 0, 0, true);
      double loss =
          model.trainingStep(
              pass,
              SequenceBatch.single(arena, ids, 0),
              labels,
              scale,
              new DecoderModel.StepOptions(true, 1024));
      assertEquals(expected.tensor("loss").toDoubles()[0], loss * scale, 1e-5);
      for (Parameter parameter : adapter.parameters().parameters()) {
        close(
            parameter.name(),
            expected.tensor("grad." + parameter.name()).toFloats(),
            parameter.gradient().toFloats(),
            GRADIENTS);
      }

      adapter.save(folder, "models/" + base);
      assertSame(directory, adapter);
    }
  }

  /** Every tensor that is trained, and every option, as PEFT wrote them. */
  private void assertSame(Path directory, LoraAdapter adapter) {
    try (SafetensorsFile peft =
            SafetensorsFile.open(directory.resolve(PeftAdapterFile.WEIGHTS_FILE));
        SafetensorsFile ours = SafetensorsFile.open(folder.resolve(PeftAdapterFile.WEIGHTS_FILE))) {
      for (String name : peft.names()) {
        if (!name.contains("original_module") && !name.contains("modules_to_save")) {
          assertArrayEquals(peft.tensor(name).shape(), ours.tensor(name).shape(), name);
          assertArrayEquals(peft.tensor(name).toBytes(), ours.tensor(name).toBytes(), name);
        }
      }
      assertEquals(adapter.parameters().parameters().size(), ours.names().size());
    }
    ObjectNode peft = Json.readObject(directory.resolve(PeftAdapterFile.CONFIG_FILE), 1 << 20);
    ObjectNode ours = Json.readObject(folder.resolve(PeftAdapterFile.CONFIG_FILE), 1 << 20);
    for (String option :
        List.of(
            "alpha_pattern",
            "bias",
            "exclude_modules",
            "init_lora_weights",
            "layers_to_transform",
            "lora_alpha",
            "modules_to_save",
            "r",
            "rank_pattern",
            "use_dora",
            "use_rslora")) {
      assertEquals(peft.get(option), ours.get(option), option);
    }
    if (peft.get("target_modules").isTextual()) {
      assertEquals(peft.get("target_modules"), ours.get("target_modules"));
    }
  }

  /** On the fly, what PEFT computes once the adapter is merged; the fixtures' bound is 2e-5. */
  @ParameterizedTest
  @ValueSource(strings = {"lora", "rslora_r4_qv_only", "dora_qv_only"})
  void computeWhatTheMergedModelComputes(String name) {
    Path directory = FixtureFiles.reference("merge").resolve(name);
    try (DecoderModel model = model("models/llama");
        LoraAdapter adapter = LoraAdapter.load(pack, directory.resolve("adapter"), model);
        SafetensorsFile expected =
            SafetensorsFile.open(directory.resolve("expected.safetensors"))) {
      assertTrue(adapter.parameters().elements() > 0);
      int[] both = ids(expected);
      int[] second = Arrays.copyOfRange(both, both.length / 2, both.length);
      float[] all = expected.tensor("logits_merged").toFloats();
      assertArrayEquals(
          Arrays.copyOfRange(all, all.length - 4 * model.config().vocabSize(), all.length),
          lastLogits(model, second),
          2e-5f);
    }
  }

  @Test
  void severalAdaptersTakeTurns() throws URISyntaxException {
    try (DecoderModel model = model("models/llama");
        ModelAdapters adapters = new ModelAdapters(model);
        SafetensorsFile dora =
            SafetensorsFile.open(adapter("llama_dora_patterns").resolve("expected.safetensors"));
        SafetensorsFile head =
            SafetensorsFile.open(adapter("llama_rslora_head").resolve("expected.safetensors"))) {
      float[] base = lastLogits(model, ids(dora));
      adapters.load("dora", adapter("llama_dora_patterns"));
      adapters.load("head", adapter("llama_rslora_head"));
      assertArrayEquals(base, lastLogits(model, ids(dora)), "loaded, not active");
      for (String name : new String[] {"dora", "head", "dora"}) {
        adapters.activate(name);
        assertEquals(name, adapters.active());
        SafetensorsFile expected = name.equals("dora") ? dora : head;
        close(
            name,
            expected.tensor("logits_last4").toFloats(),
            lastLogits(model, ids(expected)),
            LOGITS);
      }
      adapters.activate(null);
      assertNull(adapters.active());
      assertArrayEquals(base, lastLogits(model, ids(dora)), "none");
      adapters.activate("head");
      adapters.remove("head");
      assertArrayEquals(base, lastLogits(model, ids(dora)), "removed");
      assertEquals(List.of("dora"), adapters.names());
      assertThrows(IllegalArgumentException.class, () -> adapters.activate("head"));
      Path again = adapter("llama_dora_patterns");
      assertThrows(IllegalArgumentException.class, () -> adapters.load("dora", again));
    }
  }

  private static LoraConfig config(LoraConfig.Bias bias, List<String> modules, LoraInit init) {
    return new LoraConfig(
        4, 8, 0, false, TargetModules.of(List.of()), Map.of(), Map.of(), true, bias, modules, init);
  }

  /** Whether the embedding that is copied is in memory, or was left in its file. */
  @ParameterizedTest
  @ValueSource(longs = {0, Long.MAX_VALUE})
  void beginsAsTheBase(long embeddingInFile) {
    try (DecoderModel model = model("models/neox_polyglot", embeddingInFile)) {
      int[] ids = {5, 9, 31, 7, 200, 13, 2};
      float[] base = lastLogits(model, ids);
      for (LoraInit.Kind kind : List.of(LoraInit.Kind.KAIMING, LoraInit.Kind.GAUSSIAN)) {
        LoraConfig config =
            config(
                LoraConfig.Bias.ALL,
                List.of("embed_in", "embed_out", "norm"),
                new LoraInit(kind, 0));
        try (LoraAdapter adapter = LoraAdapter.allocate(pack, config, model)) {
          adapter.initialise(3);
          adapter.attach(model.linears());
          close("logits", base, lastLogits(model, ids), LOGITS);
          adapter.detach();
        }
      }
    }
  }

  /** Uniform values have the deviation of their bounds, a gaussian that of one over the rank. */
  @Test
  void beginningsHaveTheirSpread() {
    try (DecoderModel model = model("models/llama")) {
      for (LoraInit.Kind kind :
          List.of(LoraInit.Kind.KAIMING, LoraInit.Kind.UNIFORM, LoraInit.Kind.GAUSSIAN)) {
        LoraConfig config = config(LoraConfig.Bias.NONE, List.of(), new LoraInit(kind, 0));
        try (LoraAdapter adapter = LoraAdapter.allocate(pack, config, model)) {
          adapter.initialise(3);
          adapter
              .layers()
              .forEach(
                  (name, layer) -> {
                    DeviceTensor a = layer.a().value();
                    double expected =
                        kind == LoraInit.Kind.GAUSSIAN ? 1.0 / 4 : 1 / Math.sqrt(3.0 * a.cols());
                    // The deviation of n values is off by 1 / sqrt(2 n) of itself; five times that.
                    assertEquals(
                        expected,
                        deviation(a.toFloats()),
                        expected * 5 / Math.sqrt(2.0 * a.elements()),
                        name);
                    double ofB = deviation(layer.b().value().toFloats());
                    if (kind == LoraInit.Kind.UNIFORM) {
                      double wanted = 1 / Math.sqrt(3.0 * 4);
                      assertEquals(
                          wanted,
                          ofB,
                          wanted * 5 / Math.sqrt(2.0 * layer.b().value().elements()),
                          name);
                    } else {
                      assertEquals(0, ofB, name);
                    }
                  });
        }
      }
    }
  }

  private static double deviation(float[] values) {
    double sum = 0;
    for (float value : values) {
      sum += (double) value * value;
    }
    return Math.sqrt(sum / values.length);
  }

  /** PEFT's save_embedding_layers: the base's own embedding and head go along. */
  @Test
  void embeddingsThatWereSavedAlongAreTheModels() throws IOException, URISyntaxException {
    Path base = FixtureFiles.reference("models/llama");
    Path source = adapter("llama_dora_patterns");
    Files.copy(source.resolve("adapter_config.json"), folder.resolve("adapter_config.json"));
    Path weights = folder.resolve(PeftAdapterFile.WEIGHTS_FILE);
    StoredTensors tensors = StoredTensors.read(source.resolve(PeftAdapterFile.WEIGHTS_FILE));
    StoredTensors own = StoredTensors.read(base.resolve(ModelCheckpoint.SINGLE_FILE));
    for (String name : List.of("model.embed_tokens.weight", "lm_head.weight")) {
      StoredTensors.Tensor tensor = own.get(name);
      tensors.put(PeftAdapterFile.PREFIX + name, tensor.type(), tensor.bytes(), tensor.shape());
    }
    Files.move(tensors.write(folder).resolve(ModelCheckpoint.SINGLE_FILE), weights);
    try (DecoderModel model = model("models/llama");
        SafetensorsFile expected = SafetensorsFile.open(source.resolve("expected.safetensors"))) {
      int[] ids = ids(expected);
      try (LoraAdapter adapter = LoraAdapter.load(pack, folder, model)) {
        close("logits", expected.tensor("logits_last4").toFloats(), lastLogits(model, ids), LOGITS);
        adapter.detach();
      }
      String head = PeftAdapterFile.PREFIX + "lm_head.weight";
      StoredTensors.Tensor tensor = tensors.get(head);
      byte[] changed = tensor.bytes().clone();
      changed[changed.length - 2] ^= 0x40;
      tensors.put(head, tensor.type(), changed, tensor.shape());
      Files.delete(weights);
      Files.move(tensors.write(folder).resolve(ModelCheckpoint.SINGLE_FILE), weights);
      assertRefused(
          () -> LoraAdapter.load(pack, folder, model), head, "found others", "qlora4j merge");
      tensors.put(head, tensor.type(), new byte[4 * 64], 1, 64);
      Files.delete(weights);
      Files.move(tensors.write(folder).resolve(ModelCheckpoint.SINGLE_FILE), weights);
      assertRefused(
          () -> LoraAdapter.load(pack, folder, model), head, "is [1, 64]", "another base");
    }
    try (DecoderModel tied = model("models/llama3_tied")) {
      Path ofHead = adapter("llama_tied_head_saved");
      assertRefused(() -> LoraAdapter.load(pack, ofHead, tied), "'lm_head'", "qlora4j merge");
    }
  }

  /** What was saved along is compared piece by piece: the plan does not count it. */
  @Test
  void aTableIsNotCopiedWholeToBeCompared() throws IOException {
    int vocab = 20_000;
    Path base = folder.resolve("base");
    SmallModel.write(base, SmallModel.llama(vocab, 64, 1, 2, 1, 128), 1);
    StoredTensors own = StoredTensors.read(base.resolve(ModelCheckpoint.SINGLE_FILE));
    String query = PeftAdapterFile.PREFIX + "model.layers.0.self_attn.q_proj";
    StoredTensors tensors =
        new StoredTensors()
            .put(query + ".lora_A.weight", StoredType.F32, new byte[4 * 64 * 4], 4, 64)
            .put(query + ".lora_B.weight", StoredType.F32, new byte[64 * 4 * 4], 64, 4);
    for (String name : List.of("model.embed_tokens.weight", "lm_head.weight")) {
      StoredTensors.Tensor tensor = own.get(name);
      tensors.put(PeftAdapterFile.PREFIX + name, tensor.type(), tensor.bytes(), tensor.shape());
    }
    Path directory = Files.createDirectories(folder.resolve("adapter"));
    Files.writeString(
        directory.resolve(PeftAdapterFile.CONFIG_FILE),
        "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\"]}");
    write(tensors, directory);
    for (long embeddingInFile : new long[] {0, Long.MAX_VALUE}) {
      try (DecoderModel model = model(base, embeddingInFile)) {
        pack.resetPeak();
        long before = pack.allocatedBytes();
        LoraAdapter.load(pack, directory, model).close();
        long most = pack.peakAllocatedBytes() - before;
        assertTrue(most < vocab * 64L * Float.BYTES / 2, () -> most + " bytes");
      }
    }
    // A last row that differs is found.
    String head = PeftAdapterFile.PREFIX + "lm_head.weight";
    byte[] changed = tensors.get(head).bytes().clone();
    changed[changed.length - 1] ^= 0x40;
    tensors.put(head, tensors.get(head).type(), changed, tensors.get(head).shape());
    write(tensors, directory);
    try (DecoderModel model = model(base, 0)) {
      assertRefused(() -> LoraAdapter.load(pack, directory, model), head, "found others");
    }
  }

  private static void write(StoredTensors tensors, Path adapter) throws IOException {
    Path written = tensors.write(adapter).resolve(ModelCheckpoint.SINGLE_FILE);
    Files.move(
        written,
        adapter.resolve(PeftAdapterFile.WEIGHTS_FILE),
        StandardCopyOption.REPLACE_EXISTING);
  }

  /** An adapter of PEFT's with other tensors. */
  private Path changed(String name, Consumer<StoredTensors> change)
      throws IOException, URISyntaxException {
    Path source = adapter(name);
    Path changed = Files.createTempDirectory(folder, name);
    Files.copy(
        source.resolve(PeftAdapterFile.CONFIG_FILE), changed.resolve(PeftAdapterFile.CONFIG_FILE));
    StoredTensors tensors = StoredTensors.read(source.resolve(PeftAdapterFile.WEIGHTS_FILE));
    change.accept(tensors);
    write(tensors, changed);
    return changed;
  }

  /** Refused before more than the config of the model was read, and in the same words after. */
  private void assertNoPlace(String base, Path adapter, String... parts) {
    Path directory = FixtureFiles.reference(base);
    WeightNames names = WeightNames.of(ModelConfig.read(directory));
    assertRefused(() -> LoraAdapter.checkFits(adapter, names), parts);
    assertFixable(run("plan", "--model", directory, "--set", "init_adapter=" + adapter), parts);
    try (DecoderModel model = model(base)) {
      assertRefused(() -> LoraAdapter.load(pack, adapter, model), parts);
    }
  }

  @Test
  void anAdapterOfATiedHeadIsForMerge() throws URISyntaxException {
    for (String name : List.of("llama_tied_head_adapter", "llama_tied_head_saved")) {
      assertNoPlace("models/llama3_tied", adapter(name), "'lm_head'", "qlora4j merge");
    }
  }

  @Test
  void everyTensorNeedsAPlaceBeforeTheModelIsRead() throws IOException, URISyntaxException {
    String llama = "models/llama";
    String prefix = PeftAdapterFile.PREFIX;
    String embedding = prefix + "model.embed_tokens.weight";
    byte[] row = new byte[64 * 4];
    assertNoPlace(
        llama,
        changed("llama_rslora_head", t -> t.put(embedding, StoredType.F32, row, 1, 64)),
        embedding,
        "expected [288, 64], as the model has it, found [1, 64]");
    assertNoPlace(
        llama,
        changed("llama_rslora_head", t -> t.remove(embedding)),
        "expected a tensor '" + embedding + "', which modules_to_save names, found none");
    assertNoPlace(
        llama,
        changed(
            "llama_dora_patterns",
            t -> t.put(prefix + "lm_head.weight", StoredType.F32, row, 1, 64)),
        "lm_head.weight' is [1, 64], the model has [288, 64] there",
        "another base");
    assertNoPlace(
        llama,
        changed(
            "llama_dora_patterns", t -> t.put(prefix + "score.weight", StoredType.F32, row, 1, 64)),
        "score.weight' has no place in the model",
        "another base");
    String bias = prefix + "gpt_neox.layers.7.mlp.dense_4h_to_h.bias";
    assertNoPlace(
        "models/neox_polyglot",
        changed("neox_bias_all", t -> t.put(bias, StoredType.F32, row, 64)),
        bias + "' has no place in the model",
        "another base");
    Path unknown = changed("llama_tied_embedding", t -> {});
    Path config = unknown.resolve(PeftAdapterFile.CONFIG_FILE);
    Files.writeString(config, Files.readString(config).replace("embed_tokens", "embed_in"));
    assertNoPlace("models/llama3_tied", unknown, "modules_to_save", "'embed_in'");
  }

  @Test
  void refusesWhatTheModelHasNot() throws IOException, URISyntaxException {
    try (DecoderModel model = model("models/llama")) {
      assertRefused(
          () ->
              LoraAdapter.allocate(
                  pack,
                  config(LoraConfig.Bias.NONE, List.of("embed_out"), LoraInit.DEFAULT),
                  model),
          "modules_to_save",
          "'embed_out'",
          "lm_head");
      Path changed = Files.createDirectories(folder.resolve("changed"));
      Path source = adapter("neox_bias_all");
      for (String file : List.of("adapter_config.json", "adapter_model.safetensors")) {
        Files.copy(source.resolve(file), changed.resolve(file));
      }
      assertRefused(
          () -> LoraAdapter.load(pack, changed, model), "no such linear layer", "another base");
    }
  }
}
