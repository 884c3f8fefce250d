// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.LinearLayer;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;

/**
 * Checkpoints that transformers wrote in 4 bits give its logits and loss. Tolerances are those of
 * the fixtures' own page: fp32 logits 2e-5 and loss 2e-6 absolute, bf16 logits 0.15 and loss 1e-2
 * (every operator rounds to 8 bits).
 */
class BnbCheckpointTest extends FixtureTest {
  BnbCheckpointTest() {
    super("bnb_checkpoint");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.folders();
  }

  @Override
  protected List<String> operators(String name) {
    return List.of(
        "linear_forward", "rms_norm_forward", "layer_norm_forward", "rotary", "cross_entropy");
  }

  @Override
  protected boolean usesLibtorch() {
    return true;
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    Path folder = fixtures.use(name);
    check(folder, memory, DType.F32, "f32_compute", 2e-5, 2e-6);
    check(folder, memory, DType.BF16, "bf16_compute", 0.15, 1e-2);
  }

  private static void check(
      Path folder,
      DeviceMemory memory,
      DType compute,
      String suffix,
      double logitTolerance,
      double lossTolerance) {
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder);
        SafetensorsFile expected = SafetensorsFile.open(folder.resolve("expected.safetensors"));
        TensorArena arena = new TensorArena(memory.pack());
        DecoderModel model =
            ModelLoader.load(
                memory.pack(),
                ModelConfig.read(folder),
                checkpoint,
                new ModelLoader.Options(compute, null, false),
                Progress.none())) {
      for (LinearLayer linear : model.linears()) {
        assertTrue(linear.weight().format().is4Bit(), linear.name());
      }
      long[] shape = expected.tensor("input_ids").shape();
      int cols = (int) shape[1];
      int[] ids = ints(expected.tensor("input_ids").toLongs());
      int[] given = ints(expected.tensor("labels").toLongs());
      int[] positions = new int[ids.length];
      int[] labels = new int[ids.length];
      int[] starts = new int[(int) shape[0] + 1];
      for (int i = 0; i < ids.length; i++) {
        positions[i] = i % cols;
        labels[i] = i % cols == cols - 1 ? CrossEntropy.IGNORE : given[i + 1];
        starts[i / cols + 1] = i + 1;
      }
      long labelled = Arrays.stream(labels).filter(l -> l != CrossEntropy.IGNORE).count();
      Pass pass = Pass.inference(memory.pack(), arena, compute, LoraCompute.FAST);
      var mark = arena.mark();
      DeviceTensor hidden =
          model.forward(pass, SequenceBatch.of(arena, ids, positions, starts), null);
      float[] wanted = expected.tensor("logits_" + suffix).toFloats();
      float[] found = model.logits(pass, hidden).toFloats();
      assertEquals(wanted.length, found.length);
      for (int i = 0; i < wanted.length; i++) {
        assertEquals(wanted[i], found[i], logitTolerance, suffix + ", logit " + i);
      }
      arena.release(mark);
      double loss =
          model.loss(pass, SequenceBatch.of(arena, ids, positions, starts), labels, 7) / labelled;
      assertEquals(expected.tensor("loss_" + suffix).toFloats()[0], loss, lossTolerance, suffix);
    }
  }

  private static int[] ints(long[] values) {
    return Arrays.stream(values).mapToInt(Math::toIntExact).toArray();
  }
}
