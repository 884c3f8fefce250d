// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.CRC32;

/**
 * Labelled reviews in three parts: eight in ten to train on, one to calibrate on, one held out.
 * What decides is the text as the features see it, without its spaces: so equal texts are in the
 * same part, and the split is the same in every run and order.
 */
public record ReviewSplit(
    List<LabelledReviews.Review> training,
    List<LabelledReviews.Review> calibration,
    List<LabelledReviews.Review> heldOut) {
  private static final int PARTS = 10;

  public ReviewSplit {
    training = List.copyOf(training);
    calibration = List.copyOf(calibration);
    heldOut = List.copyOf(heldOut);
  }

  /** The split of these reviews. */
  public static ReviewSplit of(List<LabelledReviews.Review> reviews) {
    List<LabelledReviews.Review> training = new ArrayList<>();
    List<LabelledReviews.Review> calibration = new ArrayList<>();
    List<LabelledReviews.Review> heldOut = new ArrayList<>();
    for (LabelledReviews.Review review : reviews) {
      switch (part(review.text())) {
        case 0 -> heldOut.add(review);
        case 1 -> calibration.add(review);
        default -> training.add(review);
      }
    }
    return new ReviewSplit(training, calibration, heldOut);
  }

  private static int part(String text) {
    CRC32 hash = new CRC32();
    hash.update(
        SentimentFeatures.normalize(text).replace(" ", "").getBytes(StandardCharsets.UTF_8));
    return (int) (hash.getValue() % PARTS);
  }
}
