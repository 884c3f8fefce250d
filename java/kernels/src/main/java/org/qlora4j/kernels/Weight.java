// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;

/**
 * A weight matrix W of shape [rows, cols] = [out features, in features] on a device.
 *
 * <p>Dense: {@code data} is [rows, cols] of {@code dtype} and may be strided. 4-bit: {@code data}
 * holds {@code (rows * cols + 1) / 2} bytes in the canonical layout, {@code absmax} one f32 per
 * block of {@code blockSize} elements of the row-major flattening or, with double quantization, one
 * code per block; then {@code nestedAbsmax} holds one f32 per {@code nestedBlockSize} blocks and
 * {@code nestedOffset} the value subtracted before. 4-bit and packed: {@code data} holds all of
 * that in the pack's own order (see {@link PackedWeights}). INT8 and FP8: {@code data} is [rows,
 * cols] of codes, contiguous, and {@code absmax} holds one f32 per row: its absmax (INT8) or scale
 * (FP8).
 *
 * @param format storage
 * @param dtype type of the elements, or the type they had before they were quantized
 * @param blockSize elements per block; 0 for a weight that is not stored in 4 bits
 * @param nestedBlockSize blocks per nested block, or 0 without double quantization
 * @param nestedOffset see above
 * @param rows out features
 * @param cols in features
 * @param data see above
 * @param absmax see above; null for a dense or packed weight
 * @param nestedAbsmax see above; null without double quantization and for a packed weight
 * @param layout order of a 4-bit weight
 */
public record Weight(
    WeightFormat format,
    DType dtype,
    int blockSize,
    int nestedBlockSize,
    float nestedOffset,
    long rows,
    long cols,
    DeviceTensor data,
    @Nullable DeviceTensor absmax,
    @Nullable DeviceTensor nestedAbsmax,
    WeightLayout layout) {

  /**
   * Checks that the parts fit each other.
   *
   * @throws IllegalArgumentException with the expected and the found shape
   */
  public Weight {
    switch (format) {
      case DENSE -> {
        Checks.type("data", data, dtype);
        Checks.matrix("data", data, rows, cols);
        if (absmax != null) {
          throw new IllegalArgumentException("a dense weight has no absmax");
        }
      }
      case NF4, FP4 -> {
        Checks.blockSize(blockSize);
        Checks.type("data", data, DType.U8);
        Checks.contiguous("data", data);
        if (layout == WeightLayout.CANONICAL) {
          long elements = Math.multiplyExact(rows, cols);
          Checks.elements("data", data, Quantization4Bit.packedBytes(elements));
          checkBlocks(elements, blockSize, nestedBlockSize, absmax, nestedAbsmax);
        } else if (absmax != null || nestedAbsmax != null) {
          throw new IllegalArgumentException("the absmax of a packed weight is part of its data");
        }
      }
      case INT8, FP8 -> {
        Checks.type("data", data, format == WeightFormat.INT8 ? DType.I8 : DType.F8_E4M3);
        Checks.matrix("data", data, rows, cols);
        Checks.contiguous("data", data);
        Checks.vector("absmax", Checks.present("absmax", absmax), DType.F32, rows);
      }
    }
    if (!format.is4Bit() && (blockSize != 0 || nestedBlockSize != 0 || nestedAbsmax != null)) {
      throw new IllegalArgumentException(format + " has no blocks, found block size " + blockSize);
    }
    if (!format.is4Bit() && layout != WeightLayout.CANONICAL) {
      throw new IllegalArgumentException("only 4-bit weights are packed, found " + format);
    }
  }

  private static void checkBlocks(
      long elements,
      int blockSize,
      int nestedBlockSize,
      @Nullable DeviceTensor absmax,
      @Nullable DeviceTensor nestedAbsmax) {
    long blocks = Quantization4Bit.blocks(elements, blockSize);
    Checks.vector(
        "absmax",
        Checks.present("absmax", absmax),
        nestedBlockSize == 0 ? DType.F32 : DType.U8,
        blocks);
    if (nestedBlockSize != 0) {
      Checks.vector(
          "nestedAbsmax",
          Checks.present("nestedAbsmax", nestedAbsmax),
          DType.F32,
          Quantization4Bit.blocks(blocks, nestedBlockSize));
    } else if (nestedAbsmax != null) {
      throw new IllegalArgumentException("nestedAbsmax given with nestedBlockSize 0");
    }
  }

  /** A weight that is not packed. */
  public Weight(
      WeightFormat format,
      DType dtype,
      int blockSize,
      int nestedBlockSize,
      float nestedOffset,
      long rows,
      long cols,
      DeviceTensor data,
      @Nullable DeviceTensor absmax,
      @Nullable DeviceTensor nestedAbsmax) {
    this(
        format,
        dtype,
        blockSize,
        nestedBlockSize,
        nestedOffset,
        rows,
        cols,
        data,
        absmax,
        nestedAbsmax,
        WeightLayout.CANONICAL);
  }

  /** A dense weight over {@code data} [rows, cols]. */
  public static Weight dense(DeviceTensor data) {
    return new Weight(
        WeightFormat.DENSE, data.dtype(), 0, 0, 0, data.rows(), data.cols(), data, null, null);
  }

  /**
   * A row-wise INT8 weight.
   *
   * @param dtype type the weight had before
   * @param codes I8 [rows, cols], as {@link QuantizationInt8} makes them without outliers
   * @param rowAbsmax F32 [rows]
   */
  public static Weight int8(DType dtype, DeviceTensor codes, DeviceTensor rowAbsmax) {
    return rowwise(WeightFormat.INT8, dtype, codes, rowAbsmax);
  }

  /**
   * A row-wise FP8 weight.
   *
   * @param dtype type the weight had before
   * @param codes F8_E4M3 [rows, cols], as {@link QuantizationFp8} makes them
   * @param rowScale F32 [rows]
   */
  public static Weight fp8(DType dtype, DeviceTensor codes, DeviceTensor rowScale) {
    return rowwise(WeightFormat.FP8, dtype, codes, rowScale);
  }

  private static Weight rowwise(
      WeightFormat format, DType dtype, DeviceTensor codes, DeviceTensor scales) {
    return new Weight(format, dtype, 0, 0, 0, codes.rows(), codes.cols(), codes, scales, null);
  }

  /** This weight as {@link PackedWeights#pack} laid it down in {@code memory}. */
  Weight packed(DeviceTensor memory) {
    return new Weight(
        format,
        dtype,
        blockSize,
        nestedBlockSize,
        nestedOffset,
        rows,
        cols,
        memory,
        null,
        null,
        WeightLayout.PACKED);
  }

  /** Bytes the weight occupies on the device, absmax included. */
  public long bytes() {
    return data.bytes()
        + (absmax == null ? 0 : absmax.bytes())
        + (nestedAbsmax == null ? 0 : nestedAbsmax.bytes());
  }
}
