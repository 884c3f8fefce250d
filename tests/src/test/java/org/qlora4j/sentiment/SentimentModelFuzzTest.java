// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.zip.CRC32;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.tests.support.Fuzz;

/**
 * Sentiment models. A checksum catches nearly every bent file, so these have the right one.
 *
 * <p>Allocation: a model holds a byte for each of 2^24 features, however few it knows.
 */
class SentimentModelFuzzTest {
  private static final long BUFFERS = (16 << 20) + (4 << 20);
  private static final long PER_BYTE = 1000;

  private static final String TEXT = "\uc815\ub9d0 \uc88b\uc544\uc694";

  private final Path file;
  private final byte[] header;
  private final byte[] features;

  /** A model that knows the features of one text; reading it loads the dictionary, too. */
  SentimentModelFuzzTest(@TempDir Path folder) throws IOException {
    this.file = folder.resolve("m.model");
    byte[] weights = new byte[1 << SentimentFeatures.BITS];
    int[] numbers = new SentimentFeatures().of(TEXT);
    for (int i = 0; i < numbers.length; i++) {
      weights[numbers[i]] = (byte) (127 - 17 * i);
    }
    new SentimentModel(
            weights,
            0.05,
            -0.43,
            new Calibration(0.93, -0.02),
            Json.object(
                "{\"hash_bits\": 24, \"longest_gram\": 5, \"weight_scale\": 0.05, \"bias\": -0.43, "
                    + "\"platt_slope\": 0.93, \"platt_offset\": -0.02, \"trained_on\": \"a\"}",
                "test"))
        .write(file);
    byte[] model = Files.readAllBytes(file);
    int headerBytes = ByteBuffer.wrap(model).order(ByteOrder.LITTLE_ENDIAN).getInt(12);
    this.header = Arrays.copyOfRange(model, 16, 16 + headerBytes);
    this.features = Arrays.copyOfRange(model, 16 + headerBytes, model.length - 4);
    assertTrue(features.length >= 2 * numbers.length && numbers.length > 3);
    assertEquals(-1, Arrays.mismatch(model, model(header, features)));
    read(model);
  }

  private static byte[] model(byte[] header, byte[] features) {
    return withChecksum(
        ByteBuffer.allocate(8 + 4 + 4 + header.length + features.length + 4)
            .order(ByteOrder.LITTLE_ENDIAN)
            .put("Q4JSENT\n".getBytes(StandardCharsets.US_ASCII))
            .putInt(1)
            .putInt(header.length)
            .put(header)
            .put(features)
            .array());
  }

  private static byte[] withChecksum(byte[] model) {
    byte[] made = model.clone();
    if (made.length >= 4) {
      CRC32 checksum = new CRC32();
      checksum.update(made, 0, made.length - 4);
      ByteBuffer.wrap(made)
          .order(ByteOrder.LITTLE_ENDIAN)
          .putInt(made.length - 4, (int) checksum.getValue());
    }
    return made;
  }

  private void read(byte[] model) throws IOException {
    Files.write(file, model);
    SentimentModel read = SentimentModel.read(file);
    for (String text : List.of("", TEXT)) {
      double positive = read.positive(text);
      assertTrue(positive >= 0 && positive <= 1, "probability " + positive);
    }
  }

  @Test
  void headers() {
    Fuzz.of("sentiment headers", BUFFERS, PER_BYTE)
        .run(List.of(header), input -> read(model(input, features)));
  }

  @Test
  void features() {
    Fuzz.of("sentiment features", BUFFERS, PER_BYTE)
        .run(List.of(features), input -> read(model(header, input)));
  }

  @Test
  void files() {
    Fuzz.of("sentiment files", BUFFERS, PER_BYTE)
        .run(
            List.of(model(header, features)),
            input -> read(input.length % 2 == 0 ? input : withChecksum(input)));
  }

  /** Numbers that are finite and whose products are not. */
  @Test
  void scoresThatOverflowAreRefused() throws IOException {
    String text = new String(header, StandardCharsets.UTF_8);
    String forged =
        text.replace("\"weight_scale\":0.05", "\"weight_scale\":1e308")
            .replace("\"platt_slope\":0.93", "\"platt_slope\":0");
    assertNotEquals(text.length(), forged.length());
    Files.write(file, model(forged.getBytes(StandardCharsets.UTF_8), features));
    InputException e = assertThrows(InputException.class, () -> SentimentModel.read(file));
    String expected = "weight_scale: expected a number of at most 1e9 in magnitude, found 1.0E308";
    assertTrue(String.valueOf(e.getMessage()).contains(expected), e.getMessage());
  }
}
