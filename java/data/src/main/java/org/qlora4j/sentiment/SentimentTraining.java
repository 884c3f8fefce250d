// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

/**
 * How a classifier is trained. The defaults are what did best on NSMC; docs/data.md has the
 * comparison.
 *
 * @param epochs passes over the training reviews
 * @param learningRate AdaGrad's
 * @param minCount training reviews that a feature must occur in
 * @param maxFeatures features that are kept at most, those with the largest weights
 * @param seed of the order of the reviews
 */
public record SentimentTraining(
    int epochs, double learningRate, int minCount, int maxFeatures, long seed) {
  /** The defaults. */
  public static SentimentTraining defaults() {
    return new SentimentTraining(8, 0.1, 3, 1_200_000, 1);
  }
}
