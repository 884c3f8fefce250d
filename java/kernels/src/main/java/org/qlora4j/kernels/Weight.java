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
 * {@code nestedOffset} the value subtracted before.
 *
 * @param format storage
 * @param dtype type of the elements, or the type they had before they were quantized
 * @param blockSize elements per block; 0 for a dense weight
 * @param nestedBlockSize blocks per nested block, or 0 without double quantization
 * @param nestedOffset see above
 * @param rows out features
 * @param cols in features
 * @param data see above
 * @param absmax see above; null for a dense weight
 * @param nestedAbsmax see above; null without double quantization
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
    @Nullable DeviceTensor nestedAbsmax) {

  /**
   * Checks that the parts fit each other.
   *
   * @throws IllegalArgumentException with the expected and the found shape
   */
  public Weight {
    if (format == WeightFormat.DENSE) {
      Checks.type("data", data, dtype);
      Checks.matrix("data", data, rows, cols);
      if (absmax != null || nestedAbsmax != null) {
        throw new IllegalArgumentException("a dense weight has no absmax");
      }
    } else {
      long elements = Math.multiplyExact(rows, cols);
      Checks.blockSize(blockSize);
      Checks.type("data", data, DType.U8);
      Checks.elements("data", data, Quantization4Bit.packedBytes(elements));
      Checks.contiguous("data", data);
      DeviceTensor maxima = Checks.present("absmax", absmax);
      long blocks = Quantization4Bit.blocks(elements, blockSize);
      Checks.type("absmax", maxima, nestedBlockSize == 0 ? DType.F32 : DType.U8);
      Checks.elements("absmax", maxima, blocks);
      Checks.contiguous("absmax", maxima);
      if (nestedBlockSize != 0) {
        DeviceTensor nested = Checks.present("nestedAbsmax", nestedAbsmax);
        Checks.type("nestedAbsmax", nested, DType.F32);
        Checks.elements("nestedAbsmax", nested, Quantization4Bit.blocks(blocks, nestedBlockSize));
        Checks.contiguous("nestedAbsmax", nested);
      } else if (nestedAbsmax != null) {
        throw new IllegalArgumentException("nestedAbsmax given with nestedBlockSize 0");
      }
    }
  }

  /** A dense weight over {@code data} [rows, cols]. */
  public static Weight dense(DeviceTensor data) {
    return new Weight(
        WeightFormat.DENSE, data.dtype(), 0, 0, 0, data.rows(), data.cols(), data, null, null);
  }

  /** Bytes the weight occupies on the device, absmax included. */
  public long bytes() {
    return data.bytes()
        + (absmax == null ? 0 : absmax.bytes())
        + (nestedAbsmax == null ? 0 : nestedAbsmax.bytes());
  }
}
