// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.generate.SamplingConfig;
import org.qlora4j.generate.TextGenerator;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.KvCache;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.model.RandomCheckpoint;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.SmallModel;

/**
 * LongRoPE's two sets of frequencies in whole models. With one factor for all frequencies and no
 * attention factor it is linear scaling, by the one factor for short batches and by the other for
 * long ones, so a model with linear scaling is what to compare with: bit for bit, as the factors
 * are powers of two.
 */
class LongRopeTest {
  private static final int ORIGINAL = 16;
  private static final int VOCABULARY = 96;

  private final Path folder;

  LongRopeTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @Test
  void theLongestSequenceOfABatchChooses() throws IOException {
    int[] ids = ids(ORIGINAL + 3);
    int[] atTheLimit = Arrays.copyOf(ids, ORIGINAL);
    float[] shortBatch = logits(longRope(2, 4), atTheLimit);
    float[] longBatch = logits(longRope(2, 4), ids);
    assertArrayEquals(logits(linear(2), atTheLimit), shortBatch);
    assertArrayEquals(logits(linear(4), ids), longBatch);
    assertFalse(Arrays.equals(logits(linear(2), ids), longBatch), "the factors matter");
  }

  @Test
  void aTextThatGrowsBeyondTheLimitIsReadAgain() throws IOException {
    int[] prompt = ids(ORIGINAL - 3);
    int tokens = 8;
    try (Loaded loaded = new Loaded(longRope(2, 8))) {
      int[] expected = Arrays.copyOf(prompt, prompt.length + tokens);
      for (int length = prompt.length; length < expected.length; length++) {
        float[] logits = loaded.logits(Arrays.copyOf(expected, length));
        expected[length] = argmax(logits, (length - 1) * VOCABULARY);
      }
      assertFalse(
          Arrays.equals(expected, loaded.withoutReadingAgain(prompt, tokens)),
          "keys of the shorter text would serve, so this test could not fail");
      int[] generated =
          new TextGenerator(loaded.model, loaded.pass, Set.of())
              .generate(prompt, SamplingConfig.greedy(tokens));
      assertArrayEquals(Arrays.copyOfRange(expected, prompt.length, expected.length), generated);
    }
  }

  private float[] logits(Path directory, int[] ids) {
    try (Loaded loaded = new Loaded(directory)) {
      return loaded.logits(ids);
    }
  }

  private static int argmax(float[] logits, int from) {
    int best = 0;
    for (int i = 1; i < VOCABULARY; i++) {
      best = logits[from + i] > logits[from + best] ? i : best;
    }
    return best;
  }

  private static int[] ids(int count) {
    int[] ids = new int[count];
    for (int i = 0; i < count; i++) {
      ids[i] = (i * 37 + 11) % VOCABULARY;
    }
    return ids;
  }

  private Path longRope(double inShort, double inLong) throws IOException {
    ObjectNode scaling = Json.object("{\"rope_type\": \"longrope\"}", "test");
    scaling.put("original_max_position_embeddings", ORIGINAL).put("attention_factor", 1.0);
    ArrayNode shortFactors = scaling.putArray("short_factor");
    ArrayNode longFactors = scaling.putArray("long_factor");
    for (int i = 0; i < 8; i++) {
      shortFactors.add(inShort);
      longFactors.add(inLong);
    }
    return model("long" + inLong, scaling);
  }

  private Path linear(double factor) throws IOException {
    ObjectNode scaling = Json.object("{\"rope_type\": \"linear\"}", "test");
    return model("linear" + factor, scaling.put("factor", factor));
  }

  /** The same weights under each scaling, so large that attention depends on positions. */
  private Path model(String name, ObjectNode scaling) throws IOException {
    Path directory = folder.resolve(name);
    if (!Files.exists(directory)) {
      ObjectNode json = Json.object(SmallModel.llama(VOCABULARY, 64, 2, 4, 2, 96), "test");
      json.set("rope_scaling", scaling);
      json.put("initializer_range", 0.4);
      Path config = Files.writeString(folder.resolve(name + ".json"), json.toString());
      new RandomCheckpoint(ModelConfig.readFile(config), StoredType.F32, 5)
          .write(config, null, directory, 1 << 30, 1, Progress.none());
    }
    return directory;
  }

  /** A model in f32 and what it runs on. */
  private static final class Loaded implements AutoCloseable {
    private final KernelPack pack = KernelPack.openAutomatic();
    private final TensorArena arena = new TensorArena(pack);
    private final Pass pass = Pass.inference(pack, arena, DType.F32, LoraCompute.FAST);
    private final DecoderModel model;

    Loaded(Path directory) {
      try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
        model =
            ModelLoader.load(
                pack,
                ModelConfig.read(directory),
                checkpoint,
                new ModelLoader.Options(DType.F32, null, false),
                Progress.none());
      }
    }

    float[] logits(int[] ids) {
      var mark = arena.mark();
      SequenceBatch batch = SequenceBatch.single(arena, ids, 0);
      float[] logits = model.logits(pass, model.forward(pass, batch, null)).toFloats();
      arena.release(mark);
      return logits;
    }

    /** Greedy text against a cache that is kept whatever the length. */
    int[] withoutReadingAgain(int[] prompt, int tokens) {
      int[] text = Arrays.copyOf(prompt, prompt.length + tokens);
      try (KvCache cache = new KvCache(pack, model.config(), DType.F32, text.length)) {
        for (int length = prompt.length; length < text.length; length++) {
          int held = cache.length();
          var mark = arena.mark();
          SequenceBatch batch =
              SequenceBatch.single(arena, Arrays.copyOfRange(text, held, length), held);
          float[] logits = model.logits(pass, model.forward(pass, batch, cache)).toFloats();
          text[length] = argmax(logits, logits.length - VOCABULARY);
          arena.release(mark);
        }
      }
      return text;
    }

    @Override
    public void close() {
      model.close();
      arena.close();
      pack.close();
    }
  }
}
