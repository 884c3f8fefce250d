// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import java.util.ArrayList;
import java.util.List;

/**
 * What a classifier is worth on reviews whose label is known. Positive means a probability of at
 * least one half.
 *
 * @param truePositives positive, found positive
 * @param falseNegatives positive, found negative
 * @param trueNegatives negative, found negative
 * @param falsePositives negative, found positive
 * @param calibrationError expected calibration error (ECE) over ten bins of equal width: the mean
 *     distance between probability and frequency, weighted by the reviews in the bin
 * @param brierScore mean squared distance between probability and label
 * @param bins the reliability table
 */
public record SentimentEvaluation(
    int truePositives,
    int falseNegatives,
    int trueNegatives,
    int falsePositives,
    double calibrationError,
    double brierScore,
    List<Bin> bins) {
  private static final int BINS = 10;

  public SentimentEvaluation {
    bins = List.copyOf(bins);
  }

  /**
   * Reviews whose probability lies in [from, to).
   *
   * @param meanProbability NaN for an empty bin
   * @param positiveShare share of them that is positive; NaN for an empty bin
   */
  public record Bin(
      double from, double to, int reviews, double meanProbability, double positiveShare) {}

  static SentimentEvaluation of(double[] probabilities, boolean[] positive) {
    int[] counts = new int[BINS];
    int[] positives = new int[BINS];
    double[] sums = new double[BINS];
    int[][] confusion = new int[2][2];
    double squares = 0;
    for (int i = 0; i < probabilities.length; i++) {
      double p = probabilities[i];
      int bin = Math.min(BINS - 1, (int) (p * BINS));
      counts[bin]++;
      sums[bin] += p;
      positives[bin] += positive[i] ? 1 : 0;
      confusion[positive[i] ? 1 : 0][p >= 0.5 ? 1 : 0]++;
      double distance = p - (positive[i] ? 1 : 0);
      squares += distance * distance;
    }
    double error = 0;
    List<Bin> bins = new ArrayList<>();
    for (int b = 0; b < BINS; b++) {
      double mean = sums[b] / counts[b];
      double share = (double) positives[b] / counts[b];
      bins.add(new Bin((double) b / BINS, (double) (b + 1) / BINS, counts[b], mean, share));
      if (counts[b] > 0) {
        error += Math.abs(mean - share) * counts[b] / probabilities.length;
      }
    }
    return new SentimentEvaluation(
        confusion[1][1],
        confusion[1][0],
        confusion[0][0],
        confusion[0][1],
        error,
        squares / probabilities.length,
        bins);
  }

  /** Reviews that were looked at. */
  public int reviews() {
    return truePositives + falseNegatives + trueNegatives + falsePositives;
  }

  /** Share of the reviews that were found to be what they are. */
  public double accuracy() {
    return (double) (truePositives + trueNegatives) / reviews();
  }

  /** Share of the reviews found positive that are; NaN where none was found. */
  public double precision() {
    return (double) truePositives / (truePositives + falsePositives);
  }

  /** Share of the positive reviews that were found; NaN where there is none. */
  public double recall() {
    return (double) truePositives / (truePositives + falseNegatives);
  }
}
