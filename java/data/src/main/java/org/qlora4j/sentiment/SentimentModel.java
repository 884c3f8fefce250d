// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.zip.CRC32;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.korean.Morphemes;

/**
 * A trained classifier: the probability that a Korean text is positive. Thread-safe; a text of 40
 * words takes a fraction of a millisecond.
 *
 * <p>The score of a text with n known features of weights w is {@code bias + Σw/√n}; the
 * probability is {@code 1/(1 + exp(-(slope·score + offset)))} with Platt's slope and offset, fitted
 * on reviews that training did not see. The file format is in {@code docs/data.md}.
 */
public final class SentimentModel {
  private static final byte[] MAGIC = "Q4JSENT\n".getBytes(StandardCharsets.US_ASCII);
  private static final int VERSION = 1;
  private static final long MAX_FILE_BYTES = 64L << 20;
  private static final int MAX_HEADER_BYTES = 1 << 20;
  private static final int CHECKSUM_BYTES = 4;

  /** Far beyond what training gives, and small enough that no score overflows. */
  private static final double LARGEST_NUMBER = 1e9;

  private final SentimentFeatures features = new SentimentFeatures();

  /** Weight of each feature in units of `scale`; 0 for a feature that is not known. */
  private final byte[] weights;

  private final double scale;
  private final double bias;
  private final Calibration calibration;
  private final ObjectNode about;

  SentimentModel(
      byte[] weights, double scale, double bias, Calibration calibration, ObjectNode about) {
    if (weights.length != 1 << SentimentFeatures.BITS) {
      throw new IllegalArgumentException("weights: expected one for each feature number");
    }
    this.weights = weights;
    this.scale = scale;
    this.bias = bias;
    this.calibration = calibration;
    this.about = about;
  }

  /**
   * Reads a model file, which may come from anywhere: everything is checked before it is believed.
   *
   * @throws InputException when it is not a model of this version, whole and undamaged
   */
  public static SentimentModel read(Path file) {
    byte[] bytes;
    try {
      if (Files.isDirectory(file)) {
        throw new InputException(file + ": expected a sentiment model file, found a directory");
      }
      long size = Files.size(file);
      if (size > MAX_FILE_BYTES) {
        throw new InputException(
            file
                + ": expected a sentiment model of at most "
                + MAX_FILE_BYTES
                + " bytes, found "
                + size);
      }
      bytes = Files.readAllBytes(file);
    } catch (NoSuchFileException e) {
      throw new InputException(
          "no such file: " + file + "; train one with qlora4j data train-sentiment", e);
    } catch (IOException e) {
      throw new InputException("cannot read " + file + ": " + e, e);
    }
    try {
      return parse(file, bytes);
    } catch (BufferUnderflowException e) {
      throw damaged(file, "it ends too early");
    }
  }

  private static SentimentModel parse(Path file, byte[] bytes) {
    ByteBuffer in = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    for (byte expected : MAGIC) {
      if (!in.hasRemaining() || in.get() != expected) {
        throw new InputException(
            file
                + ": expected a sentiment model written by qlora4j data train-sentiment, found another kind of file");
      }
    }
    int version = in.getInt();
    if (version != VERSION) {
      throw new InputException(
          file
              + ": expected a sentiment model of version "
              + VERSION
              + ", found version "
              + version
              + "; train it again");
    }
    CRC32 checksum = new CRC32();
    if (bytes.length < in.position() + CHECKSUM_BYTES) {
      throw damaged(file, "it ends too early");
    }
    checksum.update(bytes, 0, bytes.length - CHECKSUM_BYTES);
    if ((int) checksum.getValue() != in.getInt(bytes.length - CHECKSUM_BYTES)) {
      throw damaged(file, "its checksum does not match");
    }
    in.limit(bytes.length - CHECKSUM_BYTES);
    int headerBytes = in.getInt();
    if (headerBytes < 2 || headerBytes > MAX_HEADER_BYTES || headerBytes > in.remaining()) {
      throw damaged(file, "its header has an impossible length");
    }
    byte[] header = new byte[headerBytes];
    in.get(header);
    ObjectNode about = Json.object(new String(header, StandardCharsets.UTF_8), file.toString());
    int bits = integer(about, "hash_bits", file);
    int gram = integer(about, "longest_gram", file);
    if (bits != SentimentFeatures.BITS || gram != SentimentFeatures.LONGEST_GRAM) {
      throw damaged(file, "its header names features that version " + VERSION + " does not have");
    }
    double scale = number(about, "weight_scale", file);
    double bias = number(about, "bias", file);
    Calibration calibration =
        new Calibration(number(about, "platt_slope", file), number(about, "platt_offset", file));
    int count = integer(about, "features", file);
    if (count < 0 || count > in.remaining() / 2) {
      throw damaged(file, "it has fewer features than its header says");
    }
    byte[] weights = new byte[1 << SentimentFeatures.BITS];
    long at = -1;
    for (int i = 0; i < count; i++) {
      at += gap(in, file);
      if (at >= weights.length) {
        throw damaged(file, "a feature's number is too large");
      }
      weights[(int) at] = in.get();
    }
    if (in.hasRemaining()) {
      throw damaged(file, "something follows its last feature");
    }
    return new SentimentModel(weights, scale, bias, calibration, about);
  }

  /** The difference to the number before, at least 1: 7 bits a byte, the lowest first. */
  private static int gap(ByteBuffer in, Path file) {
    int value = 0;
    for (int shift = 0; shift < 28; shift += 7) {
      byte part = in.get();
      value |= (part & 0x7f) << shift;
      if (part >= 0) {
        if (value == 0) {
          throw damaged(file, "a feature comes twice");
        }
        return value;
      }
    }
    throw damaged(file, "a feature's number is too large");
  }

  private static int integer(ObjectNode about, String key, Path file) {
    JsonNode value = about.get(key);
    if (value == null || !value.isInt()) {
      throw damaged(file, "its header has no " + key);
    }
    return value.intValue();
  }

  private static double number(ObjectNode about, String key, Path file) {
    JsonNode value = about.get(key);
    if (value == null || !value.isNumber()) {
      throw damaged(file, "its header has no " + key);
    }
    if (!(Math.abs(value.doubleValue()) <= LARGEST_NUMBER)) {
      throw damaged(
          file,
          "its header's "
              + key
              + ": expected a number of at most 1e9 in magnitude, found "
              + value.doubleValue());
    }
    return value.doubleValue();
  }

  private static InputException damaged(Path file, String how) {
    return new InputException(
        file + ": the sentiment model is damaged: " + how + "; copy it again, or train it again");
  }

  /** Writes the model, whole or not at all. */
  public void write(Path file) {
    int count = 0;
    for (byte weight : weights) {
      count += weight == 0 ? 0 : 1;
    }
    ObjectNode header = about.deepCopy();
    header.put("features", count);
    byte[] json = Json.compact(header).getBytes(StandardCharsets.UTF_8);
    ByteArrayOutputStream out = new ByteArrayOutputStream(json.length + count * 2 + 64);
    out.writeBytes(MAGIC);
    out.writeBytes(littleEndian(VERSION));
    out.writeBytes(littleEndian(json.length));
    out.writeBytes(json);
    int last = -1;
    for (int i = 0; i < weights.length; i++) {
      if (weights[i] != 0) {
        int gap = i - last;
        for (; gap > 0x7f; gap >>>= 7) {
          out.write((gap & 0x7f) | 0x80);
        }
        out.write(gap);
        out.write(weights[i]);
        last = i;
      }
    }
    CRC32 checksum = new CRC32();
    checksum.update(out.toByteArray());
    out.writeBytes(littleEndian((int) checksum.getValue()));
    AtomicOutput.write(file, out.toByteArray());
  }

  private static byte[] littleEndian(int value) {
    return ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(value).array();
  }

  /**
   * The probability, between 0 and 1, that a text is positive; about a half for a text of which
   * nothing is known.
   */
  public double positive(String text) {
    return calibration.probability(score(text));
  }

  /**
   * The same, and shows the morphemes of the text, normalized as the model sees it, to a visitor:
   * for a caller who wants both, since the analysis takes most of the time.
   */
  public double positive(String text, Morphemes.Visitor visitor) {
    return calibration.probability(score(features.of(text, visitor)));
  }

  /** The score before calibration: negative, 0 undecided, positive. */
  double score(String text) {
    return score(features.of(text));
  }

  double score(int[] numbers) {
    int known = 0;
    int sum = 0;
    for (int number : numbers) {
      int weight = weights[number];
      if (weight != 0) {
        known++;
        sum += weight;
      }
    }
    return known == 0 ? bias : bias + scale * sum / Math.sqrt(known);
  }

  /** What the file says of the model: how it was trained, and its figures on held-out reviews. */
  public ObjectNode about() {
    return about.deepCopy();
  }
}
