// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.SmallModel;

/** NEFTune's noise: how large, of what it depends, and that gradients are those of noisy inputs. */
class EmbeddingNoiseTest {
  private static final long SEED = 20261129;
  private static final int HIDDEN = 64;
  private static final double ALPHA = 5;

  /**
   * Uniform within the bound b: mean 0 within 4 b / sqrt(3 n), mean of squares b^2 / 3 within 4
   * standard errors of 2 b^2 / sqrt(45 n), and both ends are reached.
   */
  @Test
  void isUniformWithinItsBound() {
    int n = 1 << 20;
    float bound = 0.25f;
    float[] noise = EmbeddingNoise.draw(EmbeddingNoise.key(SEED, 7, 1), 12345, n, bound);
    double sum = 0;
    double squares = 0;
    double largest = 0;
    double smallest = 0;
    for (float value : noise) {
      sum += value;
      squares += (double) value * value;
      largest = Math.max(largest, value);
      smallest = Math.min(smallest, value);
    }
    assertEquals(0, sum / n, 4 * bound / Math.sqrt(3.0 * n));
    assertEquals(bound * bound / 3.0, squares / n, 4 * 2 * bound * bound / Math.sqrt(45.0 * n));
    assertTrue(largest <= bound && largest > 0.9999 * bound, "largest " + largest);
    assertTrue(smallest >= -bound && smallest < -0.9999 * bound, "smallest " + smallest);
  }

  @Test
  void dependsOnSeedStepMicroBatchAndElement() {
    float[] noise = EmbeddingNoise.draw(EmbeddingNoise.key(SEED, 3, 2), 0, 64, 1);
    assertArrayEquals(noise, EmbeddingNoise.draw(EmbeddingNoise.key(SEED, 3, 2), 0, 64, 1));
    assertArrayEquals(
        Arrays.copyOfRange(noise, 10, 64),
        EmbeddingNoise.draw(EmbeddingNoise.key(SEED, 3, 2), 10, 54, 1),
        "in pieces as at once");
    for (long key :
        new long[] {
          EmbeddingNoise.key(SEED + 1, 3, 2),
          EmbeddingNoise.key(SEED, 2, 2),
          EmbeddingNoise.key(SEED, 3, 3)
        }) {
      assertFalse(Arrays.equals(noise, EmbeddingNoise.draw(key, 0, 64, 1)));
    }
  }

  /** Loss and the gradient of every parameter. */
  private record Step(double loss, List<byte[]> gradients) {}

  /**
   * Tokens that occur once each: a step with noise is, bit for bit, a step without on a table whose
   * rows have the noise added.
   */
  @Test
  void aStepIsThatOfNoisyEmbeddings(@TempDir Path directory) {
    ModelConfig config =
        SmallModel.write(directory, SmallModel.llama(300, HIDDEN, 3, 4, 2, 96), SEED);
    try (KernelPack pack = KernelPack.openAutomatic();
        ModelCheckpoint checkpoint = ModelCheckpoint.open(directory);
        DecoderModel model =
            ModelLoader.load(
                pack,
                config,
                checkpoint,
                new ModelLoader.Options(DType.F32, null, true),
                Progress.none())) {
      ParameterSet weights = Objects.requireNonNull(model.weights());
      weights.allocateGradients();
      int[] ids = {5, 17, 200, 3, 8, 44, 120, 61, 62, 63, 299};
      int[] starts = {0, 4, 11};
      Step plain = step(model, weights, ids, starts, 0, true);
      Step noisy = step(model, weights, ids, starts, ALPHA, true);
      assertNotEquals(plain.loss(), noisy.loss(), "noise changes the loss");
      assertEquals(
          plain.loss(),
          step(model, weights, ids, starts, ALPHA, false).loss(),
          "no noise outside of training");

      DeviceTensor table =
          weights.parameters().stream()
              .filter(p -> p.name().contains("embed_tokens"))
              .findFirst()
              .orElseThrow()
              .value();
      float[] values = table.toFloats();
      long key = EmbeddingNoise.key(SEED, 3, 1);
      for (int s = 0; s + 1 < starts.length; s++) {
        int length = starts[s + 1] - starts[s];
        float bound = (float) (ALPHA / Math.sqrt((double) length * HIDDEN));
        for (int t = starts[s]; t < starts[s + 1]; t++) {
          float[] noise = EmbeddingNoise.draw(key, (long) t * HIDDEN, HIDDEN, bound);
          for (int i = 0; i < HIDDEN; i++) {
            values[ids[t] * HIDDEN + i] += noise[i];
          }
        }
      }
      table.copyFrom(values);
      Step expected = step(model, weights, ids, starts, 0, true);
      assertEquals(expected.loss(), noisy.loss());
      for (int i = 0; i < expected.gradients().size(); i++) {
        assertArrayEquals(
            expected.gradients().get(i),
            noisy.gradients().get(i),
            weights.parameters().get(i).name());
      }
    }
  }

  private static Step step(
      DecoderModel model,
      ParameterSet trained,
      int[] ids,
      int[] starts,
      double alpha,
      boolean training) {
    trained.zeroGradients();
    int[] positions = new int[ids.length];
    int[] labels = new int[ids.length];
    for (int s = 0; s + 1 < starts.length; s++) {
      for (int t = starts[s]; t < starts[s + 1]; t++) {
        positions[t] = t - starts[s];
        labels[t] = t + 1 < starts[s + 1] ? ids[t + 1] : -100;
      }
    }
    try (TensorArena arena = new TensorArena(model.pack())) {
      Pass pass = new Pass(model.pack(), arena, DType.F32, LoraCompute.FAST, SEED, 3, 1, training);
      double loss =
          model.trainingStep(
              pass,
              SequenceBatch.of(arena, ids, positions, starts),
              labels,
              0.1f,
              new DecoderModel.StepOptions(
                  true, 2, Set.of(), 5, null, new Regularization(0, 0, alpha)));
      return new Step(
          loss, trained.parameters().stream().map(p -> p.gradient().toBytes()).toList());
    }
  }
}
