// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.List;

/** How rotary frequencies are scaled for longer contexts; {@code rope_type} in a config. */
public sealed interface RopeScaling {

  /** Not at all. */
  record None() implements RopeScaling {}

  /** Every frequency is divided by the factor. */
  record Linear(double factor) implements RopeScaling {}

  /**
   * Low frequencies are divided by the factor, high ones kept, those between blended (Llama 3.1).
   */
  record Llama3(
      double factor, double lowFreqFactor, double highFreqFactor, int originalMaxPositions)
      implements RopeScaling {}

  /**
   * Each frequency is divided by a factor of its own, from one list for contexts of at most {@code
   * originalMaxPositions} tokens and from another for longer ones, and cosine and sine are
   * multiplied by {@code attentionFactor} (LongRoPE, arXiv:2402.13753; Phi-3).
   *
   * @param shortFactors one a frequency
   * @param longFactors one a frequency
   */
  record LongRope(
      List<Float> shortFactors,
      List<Float> longFactors,
      int originalMaxPositions,
      double attentionFactor)
      implements RopeScaling {
    public LongRope {
      shortFactors = List.copyOf(shortFactors);
      longFactors = List.copyOf(longFactors);
    }
  }
}
