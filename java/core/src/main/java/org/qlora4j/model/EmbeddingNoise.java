// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * NEFTune: uniform noise on the embeddings of a training step (<a
 * href="https://arxiv.org/abs/2310.05914">Jain et al., 2023</a>). A sequence of L tokens with d
 * features gets noise within ± alpha / sqrt(L d), so that its norm is about alpha / sqrt(3)
 * whatever the length. It is a constant to the backward pass.
 *
 * <p>The noise is a function of (seed, step, micro-batch, element) and has no state, so a resumed
 * run draws what the run without interruption would have drawn. The generator is SplitMix64 (<a
 * href="https://doi.org/10.1145/2660193.2660195">Steele, Lea and Flood, 2014</a>) addressed by
 * element.
 */
final class EmbeddingNoise {
  private static final long GOLDEN = 0x9E3779B97F4A7C15L;

  /** Sets these numbers apart from others drawn from the same seed. */
  private static final long STREAM = 0x4E454654756E65L;

  /** Elements on the host at one time. */
  private static final int CHUNK = 1 << 20;

  private EmbeddingNoise() {}

  /**
   * Adds noise to {@code x}, in f32 with one rounding to its type.
   *
   * @param x [tokens, hidden]: the embeddings of {@code batch}
   */
  static void add(Pass pass, SequenceBatch batch, DeviceTensor x, double alpha) {
    TensorArena arena = pass.arena();
    int cols = Math.toIntExact(x.cols());
    int chunk = Math.max(1, CHUNK / cols);
    long key = key(pass.dropoutSeed(), pass.step(), pass.microBatch());
    int[] starts = batch.cuSeqlens();
    for (int s = 0; s + 1 < starts.length; s++) {
      int length = starts[s + 1] - starts[s];
      float bound = (float) (alpha / Math.sqrt((double) length * cols));
      for (int first = starts[s]; first < starts[s + 1]; first += chunk) {
        int rows = Math.min(chunk, starts[s + 1] - first);
        var mark = arena.mark();
        DeviceTensor noise = arena.allocate(DType.F32, rows, cols);
        if (!x.pack().isDryRun()) {
          noise.copyFrom(draw(key, (long) first * cols, rows * cols, bound));
          TorchBridge.add(x.rows(first, rows), noise);
        }
        arena.release(mark);
      }
    }
  }

  /** Elements {@code first} to {@code first + count} of a micro-batch's noise. */
  static float[] draw(long key, long first, int count, float bound) {
    float[] noise = new float[count];
    for (int i = 0; i < count; i++) {
      // 24 bits, in the middle of their interval: as many values above zero as below.
      double unit = ((mix(key + (first + i + 1) * GOLDEN) >>> 40) + 0.5) * 0x1p-24;
      noise[i] = (float) ((2 * unit - 1) * bound);
    }
    return noise;
  }

  static long key(long seed, int step, int microBatch) {
    return mix(mix(seed ^ STREAM) + ((long) step << 32 | microBatch));
  }

  private static long mix(long value) {
    long z = (value ^ (value >>> 30)) * 0xBF58476D1CE4E5B9L;
    z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
    return z ^ (z >>> 31);
  }
}
