// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.sentiment.LabelledReviews.Review;
import org.tribuo.MutableDataset;
import org.tribuo.classification.Label;
import org.tribuo.classification.LabelFactory;
import org.tribuo.classification.sgd.linear.LinearSGDModel;
import org.tribuo.classification.sgd.linear.LinearSGDTrainer;
import org.tribuo.classification.sgd.objectives.LogMulticlass;
import org.tribuo.impl.ArrayExample;
import org.tribuo.math.la.DenseMatrix;
import org.tribuo.math.optimisers.AdaGrad;
import org.tribuo.provenance.SimpleDataSourceProvenance;

/**
 * Trains a {@link SentimentModel}: logistic regression by Tribuo on hashed features, weights
 * rounded to eight bits, Platt calibration on reviews that training did not see, and figures on
 * others that neither did.
 */
public final class SentimentTrainer {
  private static final String POSITIVE = "positive";
  private static final String NEGATIVE = "negative";
  private static final int LARGEST_CODE = 127;

  private final SentimentTraining settings;
  private final Progress progress;

  public SentimentTrainer(SentimentTraining settings, Progress progress) {
    this.settings = settings;
    this.progress = progress;
  }

  /**
   * A model and what it is worth on the held-out part.
   *
   * @param uncalibratedError ECE before Platt's calibration
   */
  public record Result(
      SentimentModel model,
      SentimentEvaluation heldOut,
      double uncalibratedError,
      int trainingReviews,
      int calibrationReviews,
      int features) {}

  /**
   * Trains on the split's first part.
   *
   * @param source what the reviews are, for the model's header
   * @throws InputException when a part is empty or of one label only
   */
  public Result train(ReviewSplit split, String source) {
    check("to train on", split.training());
    check("to calibrate on", split.calibration());
    check("held out", split.heldOut());
    SentimentFeatures features = new SentimentFeatures();
    int[][] rows = features(split.training(), features);
    String[] names = names(rows);
    Weights weights = fit(split.training(), rows, names);
    SentimentModel uncalibrated = model(weights, new Calibration(1, 0), Json.newObject());
    double[] scores = scores(uncalibrated, split.calibration());
    Calibration calibration = Calibration.fit(scores, labels(split.calibration()));
    double[] heldOutScores = scores(uncalibrated, split.heldOut());
    SentimentEvaluation before = evaluation(heldOutScores, new Calibration(1, 0), split.heldOut());
    SentimentEvaluation after = evaluation(heldOutScores, calibration, split.heldOut());
    ObjectNode about = Json.newObject();
    about.put("trained_on", source);
    about.put("training_reviews", split.training().size());
    about.put("calibration_reviews", split.calibration().size());
    about.put("held_out_reviews", split.heldOut().size());
    about.put("held_out_accuracy", round(after.accuracy()));
    about.put("held_out_calibration_error", round(after.calibrationError()));
    about.put("epochs", settings.epochs());
    about.put("learning_rate", settings.learningRate());
    about.put("min_count", settings.minCount());
    about.put("seed", settings.seed());
    return new Result(
        model(weights, calibration, about),
        after,
        before.calibrationError(),
        split.training().size(),
        split.calibration().size(),
        weights.known);
  }

  private static double round(double value) {
    return Math.round(value * 1e4) / 1e4;
  }

  private static void check(String part, List<Review> reviews) {
    long positives = reviews.stream().filter(Review::positive).count();
    if (positives == 0 || positives == reviews.size()) {
      throw new InputException(
          "expected positive and negative reviews "
              + part
              + ", found "
              + positives
              + " positive of "
              + reviews.size()
              + "; give more reviews");
    }
  }

  private int[][] features(List<Review> reviews, SentimentFeatures features) {
    progress.start("features", reviews.size());
    AtomicInteger done = new AtomicInteger();
    int[][] rows =
        reviews.parallelStream()
            .map(
                review -> {
                  int now = done.incrementAndGet();
                  if (now % 1000 == 0) {
                    progress.update(now, "");
                  }
                  return features.of(review.text());
                })
            .toArray(int[][]::new);
    progress.finish();
    return rows;
  }

  /**
   * A name for each feature that is frequent enough, null for the others; shared by all examples.
   */
  private String[] names(int[][] rows) {
    int[] counts = new int[1 << SentimentFeatures.BITS];
    for (int[] row : rows) {
      for (int number : row) {
        counts[number]++;
      }
    }
    String[] names = new String[counts.length];
    int known = 0;
    for (int i = 0; i < counts.length; i++) {
      if (counts[i] >= settings.minCount()) {
        names[i] = Integer.toString(i, Character.MAX_RADIX);
        known++;
      }
    }
    if (known == 0) {
      throw new InputException(
          "no feature occurs in "
              + settings.minCount()
              + " reviews or more; give more reviews, or a smaller --min-count");
    }
    return names;
  }

  private Weights fit(List<Review> reviews, int[][] rows, String[] names) {
    LabelFactory labels = new LabelFactory();
    MutableDataset<Label> dataset =
        new MutableDataset<>(new SimpleDataSourceProvenance("reviews", labels), labels);
    progress.start("examples", rows.length);
    for (int i = 0; i < rows.length; i++) {
      ArrayExample<Label> example = example(rows[i], names, reviews.get(i).positive());
      if (example != null) {
        dataset.add(example);
      }
      rows[i] = new int[0];
      if (i % 1000 == 0) {
        progress.update(i, "");
      }
    }
    progress.finish();
    Logger.getLogger("org.tribuo").setLevel(Level.WARNING);
    progress.start("training", (long) settings.epochs() * dataset.size());
    LinearSGDModel trained =
        new LinearSGDTrainer(
                new LogMulticlass(),
                new CountedOptimiser(new AdaGrad(settings.learningRate(), 1e-4), progress),
                settings.epochs(),
                -1,
                1,
                settings.seed())
            .train(dataset);
    progress.finish();
    return Weights.of(trained, settings.maxFeatures());
  }

  private static @Nullable ArrayExample<Label> example(
      int[] row, String[] names, boolean positive) {
    String[] known = new String[row.length];
    int size = 0;
    for (int number : row) {
      String name = names[number];
      if (name != null) {
        known[size++] = name;
      }
    }
    if (size == 0) {
      return null;
    }
    double[] values = new double[size];
    Arrays.fill(values, 1 / Math.sqrt(size));
    return new ArrayExample<>(
        new Label(positive ? POSITIVE : NEGATIVE), Arrays.copyOf(known, size), values);
  }

  private static SentimentModel model(Weights weights, Calibration calibration, ObjectNode about) {
    ObjectNode header = Json.newObject();
    header.put("hash_bits", SentimentFeatures.BITS);
    header.put("longest_gram", SentimentFeatures.LONGEST_GRAM);
    header.put("weight_scale", weights.scale);
    header.put("bias", weights.bias);
    header.put("platt_slope", calibration.slope());
    header.put("platt_offset", calibration.offset());
    header.setAll(about);
    return new SentimentModel(weights.codes, weights.scale, weights.bias, calibration, header);
  }

  private double[] scores(SentimentModel model, List<Review> reviews) {
    return reviews.parallelStream().mapToDouble(review -> model.score(review.text())).toArray();
  }

  private static boolean[] labels(List<Review> reviews) {
    boolean[] labels = new boolean[reviews.size()];
    for (int i = 0; i < labels.length; i++) {
      labels[i] = reviews.get(i).positive();
    }
    return labels;
  }

  private static SentimentEvaluation evaluation(
      double[] scores, Calibration calibration, List<Review> reviews) {
    double[] probabilities = Arrays.stream(scores).map(calibration::probability).toArray();
    return SentimentEvaluation.of(probabilities, labels(reviews));
  }

  /** What a model is worth on reviews that it has not seen. */
  public static SentimentEvaluation evaluate(SentimentModel model, List<Review> reviews) {
    double[] probabilities =
        reviews.parallelStream().mapToDouble(review -> model.positive(review.text())).toArray();
    return SentimentEvaluation.of(probabilities, labels(reviews));
  }

  /** The difference of the two labels' weights, rounded to eight bits. */
  private record Weights(byte[] codes, double scale, double bias, int known) {
    static Weights of(LinearSGDModel model, int most) {
      int positive = model.getOutputIDInfo().getID(new Label(POSITIVE));
      int negative = model.getOutputIDInfo().getID(new Label(NEGATIVE));
      DenseMatrix matrix = model.getWeightsCopy();
      int features = model.getFeatureIDMap().size();
      int[] numbers = new int[features];
      double[] values = new double[features];
      for (int i = 0; i < features; i++) {
        numbers[i] =
            Integer.parseInt(model.getFeatureIDMap().get(i).getName(), Character.MAX_RADIX);
        values[i] = matrix.get(positive, i) - matrix.get(negative, i);
      }
      double bias = matrix.get(positive, features) - matrix.get(negative, features);
      double[] sizes = Arrays.stream(values).map(Math::abs).sorted().toArray();
      double smallest = features > most ? sizes[features - most] : 0;
      double scale = sizes[features - 1] / LARGEST_CODE;
      byte[] codes = new byte[1 << SentimentFeatures.BITS];
      int known = 0;
      for (int i = 0; i < features; i++) {
        if (Math.abs(values[i]) >= smallest) {
          codes[numbers[i]] = (byte) Math.rint(values[i] / scale);
          known += codes[numbers[i]] == 0 ? 0 : 1;
        }
      }
      return new Weights(codes, scale, bias, known);
    }
  }
}
