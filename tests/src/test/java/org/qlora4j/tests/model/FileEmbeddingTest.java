// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.SmallModel;

/** An embedding that stays in its file gives the bits of one in memory, and takes none. */
class FileEmbeddingTest {
  private static final long SEED = 20261127;
  private static final int VOCABULARY = 300;
  private static final int HIDDEN = 64;

  private final Path directory;

  FileEmbeddingTest(@TempDir Path directory) {
    this.directory = directory;
  }

  private ModelConfig write(String change, String to) {
    String config = SmallModel.llama(VOCABULARY, HIDDEN, 2, 4, 2, 96);
    return SmallModel.write(directory, config.replace(change, to), SEED);
  }

  private DecoderModel load(KernelPack pack, ModelConfig config, DType compute, long inFile) {
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
      return ModelLoader.load(
          pack,
          config,
          checkpoint,
          new ModelLoader.Options(compute, QuantizationConfig.nf4(), false, inFile),
          Progress.none());
    }
  }

  private static byte[] hidden(DecoderModel model, DType compute, int... ids) {
    try (TensorArena arena = new TensorArena(model.pack())) {
      Pass pass = Pass.inference(model.pack(), arena, compute, LoraCompute.FAST);
      return model.forward(pass, SequenceBatch.single(arena, ids, 0), null).toBytes();
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"BF16", "F32"})
  void rowsFromTheFileAreThoseInMemory(DType compute) {
    ModelConfig config = write("none", "none");
    // The bf16 weights are widened row by row in f32; a row and its repetition, the first, the
    // last.
    int[] some = {7, 0, VOCABULARY - 1, 7, 12};
    // More rows than go through the host's buffer at once.
    int[] many = new Random(SEED).ints(9000, 0, VOCABULARY).toArray();
    try (KernelPack pack = KernelPack.openAutomatic();
        DecoderModel resident = load(pack, config, compute, Long.MAX_VALUE);
        DecoderModel inFile = load(pack, config, compute, 0)) {
      assertEquals(
          (long) VOCABULARY * HIDDEN * DType.BF16.bytes(),
          resident.weightBytes() - inFile.weightBytes());
      assertArrayEquals(hidden(resident, compute, some), hidden(inFile, compute, some));
      assertArrayEquals(hidden(resident, compute, many), hidden(inFile, compute, many));
    }
  }

  @Test
  void smallSharedAndTrainedOnesStayInMemory() {
    ModelConfig config = write("none", "none");
    long table = (long) VOCABULARY * HIDDEN * DType.BF16.bytes();
    try (KernelPack pack = KernelPack.openAutomatic();
        DecoderModel resident = load(pack, config, DType.BF16, Long.MAX_VALUE);
        DecoderModel below = load(pack, config, DType.BF16, table + 1);
        DecoderModel at = load(pack, config, DType.BF16, table)) {
      assertEquals(resident.weightBytes(), below.weightBytes());
      assertEquals(resident.weightBytes() - table, at.weightBytes());
    }
    ModelConfig tied = write("\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true");
    try (KernelPack pack = KernelPack.openAutomatic();
        DecoderModel resident = load(pack, tied, DType.BF16, Long.MAX_VALUE);
        DecoderModel shared = load(pack, tied, DType.BF16, 0)) {
      assertEquals(resident.weightBytes(), shared.weightBytes());
    }
  }

  @Test
  void aFileThatBecomesShorterIsOneLine() throws IOException {
    ModelConfig config = write("none", "none");
    try (KernelPack pack = KernelPack.openAutomatic();
        DecoderModel model = load(pack, config, DType.BF16, 0)) {
      try (RandomAccessFile file =
          new RandomAccessFile(directory.resolve(ModelCheckpoint.SINGLE_FILE).toFile(), "rw")) {
        file.setLength(2000);
      }
      InputException e =
          assertThrows(InputException.class, () -> hidden(model, DType.BF16, VOCABULARY - 1));
      String line = String.valueOf(e.getMessage());
      assertTrue(line.contains("became shorter") && line.contains("embed_tokens"), line);
    }
  }
}
