// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import java.util.Locale;
import org.qlora4j.kernels.WeightFormat;

/**
 * How the base's linear weights are quantized; bitsandbytes' names in brackets.
 *
 * @param format NF4 or FP4 (bnb_4bit_quant_type); or INT8 or FP8, with one scale a row
 * @param blockSize elements that share one absmax, 32 to 4096, a power of two; 0 for INT8 and FP8
 * @param doubleQuantization whether the absmax values are themselves quantized to 8 bits in blocks
 *     of 256 (bnb_4bit_use_double_quant)
 * @param outlierThreshold with INT8 and bf16 activations: columns of the activations that hold a
 *     magnitude of at least this are multiplied in 16 bits (llm_int8_threshold); 0 for none
 */
public record QuantizationConfig(
    WeightFormat format, int blockSize, boolean doubleQuantization, float outlierThreshold) {

  /** Absmax values per nested block; fixed in bitsandbytes. */
  public static final int NESTED_BLOCK_SIZE = 256;

  public QuantizationConfig {
    if (format == WeightFormat.DENSE) {
      throw new IllegalArgumentException("a format to quantize to is needed, found " + format);
    }
    if (!(outlierThreshold >= 0) || (outlierThreshold > 0 && format != WeightFormat.INT8)) {
      throw new IllegalArgumentException(
          "only INT8 has an outlier threshold, which is at least 0; found " + outlierThreshold);
    }
    if (!format.is4Bit() && (blockSize != 0 || doubleQuantization)) {
      throw new IllegalArgumentException(format + " has no blocks, found " + blockSize);
    }
    if (format.is4Bit()
        && (blockSize < 32 || blockSize > 4096 || Integer.bitCount(blockSize) != 1)) {
      throw new IllegalArgumentException(
          "block size must be a power of two from 32 to 4096, found " + blockSize);
    }
    outlierThreshold += 0.0f; // -0 is no other threshold than 0, but a record would tell them apart
  }

  /** 4 bits. */
  public QuantizationConfig(WeightFormat format, int blockSize, boolean doubleQuantization) {
    this(format, blockSize, doubleQuantization, 0);
  }

  /**
   * INT8 with one absmax a row (LLM.int8).
   *
   * @param outlierThreshold see above; bitsandbytes' default is 6
   */
  public static QuantizationConfig int8(float outlierThreshold) {
    return new QuantizationConfig(WeightFormat.INT8, 0, false, outlierThreshold);
  }

  /** FP8 E4M3 with one scale a row. */
  public static QuantizationConfig fp8() {
    return new QuantizationConfig(WeightFormat.FP8, 0, false, 0);
  }

  /** The QLoRA paper's choice: NF4 in blocks of 64 with double quantization. */
  public static QuantizationConfig nf4() {
    return new QuantizationConfig(WeightFormat.NF4, 64, true);
  }

  /**
   * For messages: "nf4 in blocks of 64 with double quantization", "int8", "int8 with columns of
   * activations from 6.0 on in 16 bits".
   */
  public String text() {
    String name = format.name().toLowerCase(Locale.ROOT);
    if (format.is4Bit()) {
      return name
          + " in blocks of "
          + blockSize
          + (doubleQuantization ? " with double quantization" : "");
    }
    return outlierThreshold > 0
        ? name + " with columns of activations from " + outlierThreshold + " on in 16 bits"
        : name;
  }

  /** The same for the weights alone: how activations are multiplied is left out. */
  public QuantizationConfig ofWeights() {
    return new QuantizationConfig(format, blockSize, doubleQuantization, 0);
  }

  /**
   * Whether a weight that is stored in so many bits may be among weights that are quantized so: it
   * stays as it is.
   *
   * @param storedBits 4, or 8 for INT8; 0 for a dense weight, which is quantized
   */
  public boolean fits(int storedBits) {
    return storedBits == 0 || (format != WeightFormat.FP8 && format.is4Bit() == (storedBits == 4));
  }

  /** Nested block size of the kernel ABI: 256, or 0 without double quantization. */
  public int nestedBlockSize() {
    return doubleQuantization ? NESTED_BLOCK_SIZE : 0;
  }

  /** Number of absmax values of a 4-bit weight of {@code elements}. */
  public long blocks(long elements) {
    return (elements + blockSize - 1) / blockSize;
  }

  /**
   * Number of nested absmax values of a 4-bit weight of {@code elements}; 0 without double
   * quantization.
   */
  public long nestedBlocks(long elements) {
    return doubleQuantization ? (blocks(elements) + NESTED_BLOCK_SIZE - 1) / NESTED_BLOCK_SIZE : 0;
  }

  /** Bytes that a 4-bit weight of {@code elements} takes: codes, absmax, nested absmax. */
  public long bytes(long elements) {
    long blocks = blocks(elements);
    long codes = (elements + 1) / 2;
    return doubleQuantization
        ? codes + blocks + nestedBlocks(elements) * Float.BYTES
        : codes + blocks * Float.BYTES;
  }
}
