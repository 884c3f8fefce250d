// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

/**
 * Platt's calibration: {@code probability = 1/(1 + exp(-(slope·score + offset)))}, which turns the
 * score of a classifier into a probability that comes true as often as it says.
 *
 * @param slope of the score
 * @param offset in log-odds
 */
record Calibration(double slope, double offset) {
  private static final int STEPS = 100;
  private static final double ENOUGH = 1e-10;

  double probability(double score) {
    return 1 / (1 + Math.exp(-(slope * score + offset)));
  }

  /**
   * The calibration with the least log loss on reviews that training did not see, by Newton's
   * method; targets are drawn in by one count each (Platt 1999), so that separable reviews have a
   * finite answer.
   */
  static Calibration fit(double[] scores, boolean[] positive) {
    int positives = 0;
    for (boolean p : positive) {
      positives += p ? 1 : 0;
    }
    int negatives = positive.length - positives;
    double high = (positives + 1.0) / (positives + 2.0);
    double low = 1 / (negatives + 2.0);
    Calibration best = new Calibration(1, 0);
    double loss = loss(best, scores, positive, high, low);
    for (int step = 0; step < STEPS; step++) {
      double ga = 0;
      double gb = 0;
      double haa = 1e-12;
      double hab = 0;
      double hbb = 1e-12;
      for (int i = 0; i < scores.length; i++) {
        double p = best.probability(scores[i]);
        double error = p - (positive[i] ? high : low);
        double curve = p * (1 - p);
        ga += error * scores[i];
        gb += error;
        haa += curve * scores[i] * scores[i];
        hab += curve * scores[i];
        hbb += curve;
      }
      double determinant = haa * hbb - hab * hab;
      if (!(determinant > 0)) {
        return best;
      }
      double da = (hbb * ga - hab * gb) / determinant;
      double db = (haa * gb - hab * ga) / determinant;
      double size = 1;
      Calibration next = best;
      double nextLoss = loss;
      for (; size > 1e-6; size /= 2) {
        next = new Calibration(best.slope - size * da, best.offset - size * db);
        nextLoss = loss(next, scores, positive, high, low);
        if (nextLoss < loss) {
          break;
        }
      }
      if (!(nextLoss < loss - ENOUGH)) {
        return best;
      }
      best = next;
      loss = nextLoss;
    }
    return best;
  }

  private static double loss(
      Calibration c, double[] scores, boolean[] positive, double high, double low) {
    double sum = 0;
    for (int i = 0; i < scores.length; i++) {
      double z = c.slope * scores[i] + c.offset;
      double target = positive[i] ? high : low;
      // log(1 + exp(z)) - target·z without overflow.
      sum += Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))) - target * z;
    }
    return sum;
  }
}
