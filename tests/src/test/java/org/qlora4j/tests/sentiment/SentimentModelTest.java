// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.sentiment;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Random;
import java.util.zip.CRC32;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.sentiment.LabelledReviews;
import org.qlora4j.sentiment.ReviewSplit;
import org.qlora4j.sentiment.SentimentEvaluation;
import org.qlora4j.sentiment.SentimentModel;
import org.qlora4j.sentiment.SentimentTrainer;
import org.qlora4j.tests.support.FixtureFiles;

/** The model that the examples use. */
final class SentimentModelTest {
  private static final Path COMMITTED =
      FixtureFiles.project("examples/sentiment/korean-reviews.model");

  private final Path dir;

  SentimentModelTest(@TempDir Path dir) {
    this.dir = dir;
  }

  /**
   * The very split that `data train-sentiment` left out; the model's header says what it was worth
   * on it then.
   */
  @Test
  void committedModelIsRightOnHeldOutReviews() {
    Path reviews = FixtureFiles.data("nsmc/ratings_train.txt.xz");
    SentimentModel model = SentimentModel.read(COMMITTED);
    ReviewSplit split =
        ReviewSplit.of(
            LabelledReviews.read(reviews, null, "document", "label", Progress.none()).reviews());
    SentimentEvaluation heldOut = SentimentTrainer.evaluate(model, split.heldOut());
    System.out.printf(
        Locale.ROOT,
        "held-out NSMC reviews: accuracy %.4f of %d, ECE %.4f%n",
        heldOut.accuracy(),
        heldOut.reviews(),
        heldOut.calibrationError());
    assertTrue(heldOut.accuracy() >= 0.86, "accuracy " + heldOut.accuracy());
    assertTrue(heldOut.calibrationError() <= 0.02, "ECE " + heldOut.calibrationError());
    assertEquals(model.about().path("held_out_reviews").asInt(), heldOut.reviews());
    assertEquals(model.about().path("held_out_accuracy").asDouble(), heldOut.accuracy(), 1e-4);
  }

  /** Blog posts about products and places, which it was not trained on. */
  @Test
  void committedModelTellsBlogPostsApart() throws IOException {
    SentimentModel model = SentimentModel.read(COMMITTED);
    List<String> positives = new ArrayList<>();
    for (String line :
        Files.readAllLines(FixtureFiles.project("examples/data/blog-reviews.jsonl"))) {
      positives.add(Json.object(line, "blog").path("completion").asText());
    }
    List<String> negatives = new ArrayList<>();
    try (InputStream in =
        SentimentModelTest.class.getResourceAsStream("negative-blog-reviews.jsonl")) {
      assertNotNull(in);
      for (String line : new String(in.readAllBytes(), StandardCharsets.UTF_8).split("\n", -1)) {
        if (!line.isBlank()) {
          negatives.add(Json.object(line, "blog").path("text").asText());
        }
      }
    }
    double found = share(model, positives);
    double wrong = share(model, negatives);
    System.out.printf(
        Locale.ROOT,
        "blog posts found positive: %.3f of %d positive, %.3f of %d negative%n",
        found,
        positives.size(),
        wrong,
        negatives.size());
    assertTrue(found >= 0.85, "positive posts found positive: " + found);
    assertTrue(wrong <= 0.15, "negative posts found positive: " + wrong);
  }

  private static double share(SentimentModel model, List<String> texts) {
    return (double) texts.stream().filter(text -> model.positive(text) >= 0.5).count()
        / texts.size();
  }

  @Test
  void sameAnswerFromManyThreads() {
    SentimentModel model = SentimentModel.read(COMMITTED);
    List<String> texts = new ArrayList<>();
    Random random = new Random(1);
    for (int i = 0; i < 500; i++) {
      texts.add("정말 " + "좋은 나쁜 맛있는 지루한 친절한".split(" ", -1)[random.nextInt(5)] + " 곳이에요 " + i);
    }
    double[] alone = texts.stream().mapToDouble(model::positive).toArray();
    for (int run = 0; run < 5; run++) {
      assertEquals(
          Arrays.toString(alone),
          Arrays.toString(texts.parallelStream().mapToDouble(model::positive).toArray()));
    }
  }

  @Test
  void anyTextHasAProbability() {
    SentimentModel model = SentimentModel.read(COMMITTED);
    for (String text :
        List.of("", " ", "\ud800", "😍".repeat(5000), "x", "가".repeat(100_000), "\u0000\n")) {
      double positive = model.positive(text);
      assertTrue(positive > 0 && positive < 1, text.length() + " characters: " + positive);
    }
    assertTrue(model.positive("정말 맛있고 친절해서 행복했어요. 강력 추천해요!") > 0.9);
    assertTrue(model.positive("최악이에요. 돈이 아깝고 다시는 안 가요.") < 0.1);
  }

  /** Whatever is done to a model file, it is refused in one line or still gives probabilities. */
  @Test
  void damagedFilesAreRefused() throws IOException {
    byte[] good = Files.readAllBytes(COMMITTED);
    Path file = dir.resolve("m.model");
    Random random = new Random(2);
    for (int i = 0; i < 60; i++) {
      byte[] bad = good.clone();
      if (i % 3 == 0) {
        bad = Arrays.copyOf(bad, random.nextInt(i < 30 ? 200 : bad.length));
      } else {
        bad[random.nextInt(i % 3 == 1 ? 64 : bad.length)] ^= (byte) (1 << random.nextInt(8));
      }
      Files.write(file, bad);
      String message =
          assertThrows(InputException.class, () -> SentimentModel.read(file)).getMessage();
      assertTrue(String.valueOf(message).startsWith(file.toString()), message);
    }
  }

  /** A wrong file whose checksum is right: what a checksum cannot catch. */
  @Test
  void forgedFilesAreRefused() throws IOException {
    byte[] good = Files.readAllBytes(COMMITTED);
    Path file = dir.resolve("m.model");
    Random random = new Random(3);
    int read = 0;
    for (int i = 0; i < 200; i++) {
      byte[] bad = good.clone();
      bad[12 + random.nextInt(i % 2 == 0 ? 400 : bad.length - 16)] = (byte) random.nextInt();
      CRC32 checksum = new CRC32();
      checksum.update(bad, 0, bad.length - 4);
      ByteBuffer.wrap(bad)
          .order(ByteOrder.LITTLE_ENDIAN)
          .putInt(bad.length - 4, (int) checksum.getValue());
      Files.write(file, bad);
      try {
        double positive = SentimentModel.read(file).positive("정말 좋아요");
        assertTrue(positive >= 0 && positive <= 1, "probability " + positive);
        read++;
      } catch (InputException e) {
        assertTrue(String.valueOf(e.getMessage()).contains(file.toString()), e.getMessage());
      }
    }
    assertTrue(read > 0 && read < 200, read + " of 200 were read");
  }

  @Test
  void writesWhatItRead() throws IOException {
    Path copy = dir.resolve("copy.model");
    SentimentModel.read(COMMITTED).write(copy);
    assertEquals(-1, Files.mismatch(COMMITTED, copy));
    assertTrue(Files.size(COMMITTED) <= 2_500_000);
  }
}
