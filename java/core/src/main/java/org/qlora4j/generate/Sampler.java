// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.generate;

import java.util.Arrays;
import java.util.SplittableRandom;

/** Chooses tokens from logits. The same seed and logits give the same tokens. */
final class Sampler {

  private final SamplingConfig config;
  private final SplittableRandom random;

  Sampler(SamplingConfig config) {
    this.config = config;
    this.random = new SplittableRandom(config.seed());
  }

  /**
   * The next token.
   *
   * @param logits [vocabulary], changed
   * @param history tokens of the prompt and of the text so far
   * @param length how many of {@code history} count
   */
  int next(float[] logits, int[] history, int length) {
    penalise(logits, history, length);
    if (config.temperature() == 0) {
      return argmax(logits);
    }
    for (int i = 0; i < logits.length; i++) {
      logits[i] /= (float) config.temperature();
    }
    int[] order = candidates(logits);
    double max = logits[order[0]];
    double[] weights = new double[order.length];
    double total = 0;
    for (int i = 0; i < order.length; i++) {
      weights[i] = Math.exp(logits[order[i]] - max);
      total += weights[i];
    }
    int kept = order.length;
    if (config.topP() < 1) {
      double sum = 0;
      for (int i = 0; i < order.length; i++) {
        sum += weights[i];
        if (sum >= config.topP() * total) {
          kept = i + 1;
          total = sum;
          break;
        }
      }
    }
    double target = random.nextDouble() * total;
    for (int i = 0; i < kept; i++) {
      target -= weights[i];
      if (target < 0) {
        return order[i];
      }
    }
    return order[kept - 1];
  }

  private void penalise(float[] logits, int[] history, int length) {
    if (config.repetitionPenalty() == 1) {
      return;
    }
    boolean[] seen = new boolean[logits.length];
    for (int i = 0; i < length; i++) {
      int token = history[i];
      if (!seen[token]) {
        seen[token] = true;
        logits[token] =
            (float)
                (logits[token] > 0
                    ? logits[token] / config.repetitionPenalty()
                    : logits[token] * config.repetitionPenalty());
      }
    }
  }

  /** Tokens by falling logit, ties by rising id; all of them, or the top-k. */
  private int[] candidates(float[] logits) {
    long[] keys = new long[logits.length];
    for (int i = 0; i < logits.length; i++) {
      int bits = Float.floatToIntBits(logits[i]);
      // An int that orders like the float; its complement orders the other way round.
      int ordered = bits < 0 ? bits ^ Integer.MAX_VALUE : bits;
      keys[i] = ((long) ~ordered << 32) | i;
    }
    Arrays.sort(keys);
    int count = config.topK() == 0 ? keys.length : Math.min(config.topK(), keys.length);
    int[] order = new int[count];
    for (int i = 0; i < count; i++) {
      order[i] = (int) keys[i];
    }
    return order;
  }

  private static int argmax(float[] logits) {
    int best = 0;
    for (int i = 1; i < logits.length; i++) {
      if (logits[i] > logits[best]) {
        best = i;
      }
    }
    return best;
  }
}
