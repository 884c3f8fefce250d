// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import org.qlora4j.kernels.WeightFormat;

/**
 * How the base's linear weights are quantized; bitsandbytes' names in brackets.
 *
 * @param format NF4 or FP4 (bnb_4bit_quant_type)
 * @param blockSize elements that share one absmax, 32 to 4096, a power of two
 * @param doubleQuantization whether the absmax values are themselves quantized to 8 bits in blocks
 *     of 256 (bnb_4bit_use_double_quant)
 */
public record QuantizationConfig(WeightFormat format, int blockSize, boolean doubleQuantization) {

  /** Absmax values per nested block; fixed in bitsandbytes. */
  public static final int NESTED_BLOCK_SIZE = 256;

  public QuantizationConfig {
    if (!format.is4Bit()) {
      throw new IllegalArgumentException("NF4 or FP4 is needed, found " + format);
    }
    if (blockSize < 32 || blockSize > 4096 || Integer.bitCount(blockSize) != 1) {
      throw new IllegalArgumentException(
          "block size must be a power of two from 32 to 4096, found " + blockSize);
    }
  }

  /** The QLoRA paper's choice: NF4 in blocks of 64 with double quantization. */
  public static QuantizationConfig nf4() {
    return new QuantizationConfig(WeightFormat.NF4, 64, true);
  }

  /** Nested block size of the kernel ABI: 256, or 0 without double quantization. */
  public int nestedBlockSize() {
    return doubleQuantization ? NESTED_BLOCK_SIZE : 0;
  }

  /** Number of absmax values of a weight of {@code elements}. */
  public long blocks(long elements) {
    return (elements + blockSize - 1) / blockSize;
  }

  /**
   * Number of nested absmax values of a weight of {@code elements}; 0 without double quantization.
   */
  public long nestedBlocks(long elements) {
    return doubleQuantization ? (blocks(elements) + NESTED_BLOCK_SIZE - 1) / NESTED_BLOCK_SIZE : 0;
  }

  /** Bytes that a weight of {@code elements} takes: codes, absmax, nested absmax. */
  public long bytes(long elements) {
    long blocks = blocks(elements);
    long codes = (elements + 1) / 2;
    return doubleQuantization
        ? codes + blocks + nestedBlocks(elements) * Float.BYTES
        : codes + blocks * Float.BYTES;
  }
}
