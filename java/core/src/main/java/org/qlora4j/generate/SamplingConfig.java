// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.generate;

/**
 * How the next token is chosen, with transformers' meaning and order: repetition penalty,
 * temperature, top-k, top-p.
 *
 * @param maxNewTokens most tokens to generate
 * @param temperature divisor of the logits; 0: greedy
 * @param topK keep the k most likely tokens; 0: all
 * @param topP keep the most likely tokens whose probabilities sum to at least this; 1: all
 * @param repetitionPenalty logits of tokens already in the text are divided by it when positive,
 *     multiplied when negative; 1: none
 * @param seed of the random numbers
 */
public record SamplingConfig(
    int maxNewTokens,
    double temperature,
    int topK,
    double topP,
    double repetitionPenalty,
    long seed) {

  public SamplingConfig {
    require(maxNewTokens >= 1, "max_new_tokens must be at least 1, found " + maxNewTokens);
    require(
        temperature >= 0 && temperature < 1e6,
        "temperature must be at least 0, found " + temperature);
    require(topK >= 0, "top_k must be at least 0, found " + topK);
    require(topP > 0 && topP <= 1, "top_p must be above 0 and at most 1, found " + topP);
    require(
        repetitionPenalty > 0 && repetitionPenalty < 1e6,
        "repetition_penalty must be above 0, found " + repetitionPenalty);
  }

  /** The most likely token each time. */
  public static SamplingConfig greedy(int maxNewTokens) {
    return new SamplingConfig(maxNewTokens, 0, 0, 1, 1, 0);
  }

  private static void require(boolean condition, String message) {
    if (!condition) {
      throw new IllegalArgumentException(message);
    }
  }
}
