// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

/**
 * What a training step adds to the plain cross entropy of clean inputs. Evaluation and generation
 * use {@link #NONE}.
 *
 * @param labelSmoothing e: the target is (1 - e) one-hot + e / vocabulary, from 0 to below 1
 * @param zLoss factor of the squared log of the softmax's normalizer, which each labelled token
 *     adds to its loss
 * @param noiseAlpha NEFTune: uniform noise within ± noiseAlpha / sqrt(L d) on the embeddings of a
 *     sequence of L tokens with d features (<a href="https://arxiv.org/abs/2310.05914">Jain et al.,
 *     2023</a>); 0 for none
 */
public record Regularization(double labelSmoothing, double zLoss, double noiseAlpha) {

  /** Cross entropy as it is. */
  public static final Regularization NONE = new Regularization(0, 0, 0);

  /** Checks the ranges. */
  public Regularization {
    if (!(labelSmoothing >= 0 && labelSmoothing < 1) || !(zLoss >= 0) || !(noiseAlpha >= 0)) {
      throw new IllegalArgumentException(
          "expected a smoothing from 0 to below 1 and factors of at least 0, found "
              + labelSmoothing
              + ", "
              + zLoss
              + ", "
              + noiseAlpha);
    }
  }
}
