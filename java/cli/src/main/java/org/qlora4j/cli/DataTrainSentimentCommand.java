// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Text;
import org.qlora4j.rows.RowFormat;
import org.qlora4j.sentiment.LabelledReviews;
import org.qlora4j.sentiment.ReviewSplit;
import org.qlora4j.sentiment.SentimentEvaluation;
import org.qlora4j.sentiment.SentimentTrainer;
import org.qlora4j.sentiment.SentimentTraining;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j data train-sentiment REVIEWS MODEL}. */
@Command(
    name = "train-sentiment",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Trains a classifier of Korean texts, positive or negative, on labelled reviews.",
      "Eight in ten reviews are trained on, one calibrates, one is held out and measured."
    })
final class DataTrainSentimentCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      paramLabel = "REVIEWS",
      description =
          "Labelled reviews: .tsv, .txt (tabs), .csv or .jsonl, also with .gz or .xz behind; NSMC's ratings_train.txt as it is.")
  private Path reviews;

  @Parameters(index = "1", paramLabel = "MODEL", description = "Where the model goes.")
  private Path model;

  @Option(
      names = "--format",
      description = "${COMPLETION-CANDIDATES}; by default what the file's name says.")
  private @Nullable RowFormat format;

  @Option(
      names = "--text-field",
      defaultValue = "document",
      description = "Column or field of the text (default: ${DEFAULT-VALUE}).")
  private String textField;

  @Option(
      names = "--label-field",
      defaultValue = "label",
      description =
          "Column or field of the label: 1 or 0, positive or negative, 긍정 or 부정 (default: ${DEFAULT-VALUE}).")
  private String labelField;

  @Option(
      names = "--epochs",
      defaultValue = "8",
      description = "Passes over the training reviews (default: ${DEFAULT-VALUE}).")
  private int epochs;

  @Option(
      names = "--learning-rate",
      defaultValue = "0.1",
      description = "AdaGrad's learning rate (default: ${DEFAULT-VALUE}).")
  private double learningRate;

  @Option(
      names = "--min-count",
      defaultValue = "3",
      description = "Reviews that a feature must occur in (default: ${DEFAULT-VALUE}).")
  private int minCount;

  @Option(
      names = "--max-features",
      defaultValue = "1200000",
      description = "Features that are kept at most; two bytes each (default: ${DEFAULT-VALUE}).")
  private int maxFeatures;

  @Option(
      names = "--seed",
      defaultValue = "1",
      description = "Of the order of the reviews (default: ${DEFAULT-VALUE}).")
  private long seed;

  @Mixin private JsonOption json = new JsonOption();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  DataTrainSentimentCommand() {}

  @Override
  public Integer call() throws IOException {
    SentimentTraining settings = settings();
    if (Files.isDirectory(model)) {
      throw new InputException(model + ": expected a file for the model, found a directory");
    }
    if (Files.exists(model) && Files.isSameFile(model, reviews)) {
      throw new InputException(
          model + ": the model would replace the reviews it is made from; choose another file");
    }
    SentimentTrainer.Result result;
    LabelledReviews labelled;
    try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      labelled = LabelledReviews.read(reviews, format, textField, labelField, progress);
      String name = String.valueOf(reviews.getFileName());
      result =
          new SentimentTrainer(settings, progress).train(ReviewSplit.of(labelled.reviews()), name);
    }
    result.model().write(model);
    print(labelled, result, spec.commandLine().getOut());
    json.write(figures(labelled, result));
    return Main.DONE;
  }

  private SentimentTraining settings() {
    require("--epochs", epochs, epochs >= 1 && epochs <= 1000);
    require("--learning-rate", learningRate, learningRate > 0 && learningRate <= 100);
    require("--min-count", minCount, minCount >= 1);
    require("--max-features", maxFeatures, maxFeatures >= 1);
    return new SentimentTraining(epochs, learningRate, minCount, maxFeatures, seed);
  }

  private static void require(String option, Object value, boolean holds) {
    if (!holds) {
      throw new InputException(option + ": expected a positive number, found " + value);
    }
  }

  private void print(LabelledReviews labelled, SentimentTrainer.Result result, PrintWriter out)
      throws IOException {
    SentimentEvaluation heldOut = result.heldOut();
    labelled
        .badRows()
        .forEach((kind, count) -> out.printf(Locale.ROOT, "left out: %,d rows, %s%n", count, kind));
    out.printf(
        Locale.ROOT,
        "%,d reviews: %,d to train on, %,d to calibrate, %,d held out%n",
        labelled.reviews().size(),
        result.trainingReviews(),
        result.calibrationReviews(),
        heldOut.reviews());
    out.printf(
        Locale.ROOT,
        "held out: accuracy %.2f%%, precision %.2f%%, recall %.2f%%%n",
        100 * heldOut.accuracy(),
        100 * heldOut.precision(),
        100 * heldOut.recall());
    out.printf(
        Locale.ROOT,
        "calibration error (ECE) %.4f, %.4f before calibration; Brier score %.4f%n%n",
        heldOut.calibrationError(),
        result.uncalibratedError(),
        heldOut.brierScore());
    List<List<String>> confusion =
        List.of(
            List.of("", "found positive", "found negative"),
            List.of("is positive", count(heldOut.truePositives()), count(heldOut.falseNegatives())),
            List.of(
                "is negative", count(heldOut.falsePositives()), count(heldOut.trueNegatives())));
    Report.table(confusion).forEach(out::println);
    out.println();
    List<List<String>> reliability = new ArrayList<>();
    reliability.add(List.of("probability", "reviews", "mean", "positive"));
    for (SentimentEvaluation.Bin bin : heldOut.bins()) {
      reliability.add(
          List.of(
              String.format(Locale.ROOT, "%.1f to %.1f", bin.from(), bin.to()),
              count(bin.reviews()),
              share(bin.meanProbability()),
              share(bin.positiveShare())));
    }
    Report.table(reliability).forEach(out::println);
    out.printf(
        Locale.ROOT,
        "%n%,d features, %s; peak memory %s%nresult %s%n",
        result.features(),
        Text.bytes(Files.size(model)),
        Text.bytes(MemoryUse.now().peakBytes()),
        model);
  }

  private static String count(int count) {
    return String.format(Locale.ROOT, "%,d", count);
  }

  private static String share(double share) {
    return Double.isNaN(share) ? "-" : String.format(Locale.ROOT, "%.3f", share);
  }

  private ObjectNode figures(LabelledReviews labelled, SentimentTrainer.Result result) {
    SentimentEvaluation heldOut = result.heldOut();
    ObjectNode node = Json.newObject();
    node.put("reviews", labelled.reviews().size());
    node.put("training_reviews", result.trainingReviews());
    node.put("calibration_reviews", result.calibrationReviews());
    node.put("held_out_reviews", heldOut.reviews());
    node.put("accuracy", heldOut.accuracy());
    Report.put(node, "precision", heldOut.precision());
    Report.put(node, "recall", heldOut.recall());
    node.put("calibration_error", heldOut.calibrationError());
    node.put("calibration_error_before", result.uncalibratedError());
    node.put("brier_score", heldOut.brierScore());
    node.put("true_positives", heldOut.truePositives());
    node.put("false_negatives", heldOut.falseNegatives());
    node.put("true_negatives", heldOut.trueNegatives());
    node.put("false_positives", heldOut.falsePositives());
    ArrayNode bins = node.putArray("reliability");
    for (SentimentEvaluation.Bin bin : heldOut.bins()) {
      ObjectNode one = bins.addObject();
      one.put("from", bin.from());
      one.put("to", bin.to());
      one.put("reviews", bin.reviews());
      Report.put(one, "mean_probability", bin.meanProbability());
      Report.put(one, "positive_share", bin.positiveShare());
    }
    node.put("features", result.features());
    node.put("output", model.toString());
    return node;
  }
}
