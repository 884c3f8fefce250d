// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

/**
 * Dropout by counter: whether an element is kept is a function of these numbers and its place
 * alone, so the mask is never stored and every pack draws the same one (see {@code q4j_dropout} in
 * the ABI).
 *
 * @param probability chance of dropping an element, in [0, 1); 0 switches dropout off
 * @param seed the run's seed, the Philox key
 * @param step optimizer step
 * @param microBatch micro-batch within the step
 * @param linear number of the linear within the model
 * @param rowOffset number of the first row of the input, when it is a part of a larger batch
 */
public record Dropout(
    float probability, long seed, int step, int microBatch, int linear, long rowOffset) {

  /** No dropout. */
  public static final Dropout NONE = new Dropout(0, 0, 0, 0, 0, 0);

  /** Checks the probability. */
  public Dropout {
    if (!(probability >= 0 && probability < 1)) {
      throw new IllegalArgumentException(
          "dropout probability must be in [0, 1), found " + probability);
    }
  }
}
