// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_dequantize_4bit_params;
import org.qlora4j.kernels.abi.q4j_quantize_4bit_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * NF4 and FP4 in blocks, bit-identical to bitsandbytes; see {@code q4j_quantize_4bit} for the
 * rules.
 */
public final class Quantization4Bit {
  private Quantization4Bit() {}

  /** Bytes that {@code elements} 4-bit codes take: two per byte, rounded up. */
  public static long packedBytes(long elements) {
    return (elements + 1) / 2;
  }

  /** Number of blocks, the last one possibly partial. */
  public static long blocks(long elements, int blockSize) {
    return (elements + blockSize - 1) / blockSize;
  }

  /**
   * Quantizes a contiguous tensor of n elements.
   *
   * @param format NF4 or FP4
   * @param input F32, BF16 or F16, n elements
   * @param blockSize elements per block, a power of two from 32 to 4096
   * @param nestedBlockSize blocks per nested block (256), or 0 for no double quantization
   * @param packed U8, {@link #packedBytes packedBytes(n)}
   * @param absmax one F32 per block, or one U8 code per block with double quantization
   * @param nestedAbsmax F32, one per nested block; null without double quantization
   * @param nestedOffset F32 [1]; null without double quantization
   */
  public static void quantize(
      KernelPack pack,
      WeightFormat format,
      DeviceTensor input,
      int blockSize,
      int nestedBlockSize,
      DeviceTensor packed,
      DeviceTensor absmax,
      @Nullable DeviceTensor nestedAbsmax,
      @Nullable DeviceTensor nestedOffset) {
    if (!format.is4Bit()) {
      throw new IllegalArgumentException("quantize to NF4 or FP4, not " + format);
    }
    long n = input.elements();
    Checks.floating("input", input);
    Checks.contiguous("input", input);
    Checks.blockSize(blockSize);
    if (nestedBlockSize < 0) {
      throw new IllegalArgumentException(
          "nested block size cannot be negative, found " + nestedBlockSize);
    }
    long blocks = blocks(n, blockSize);
    Checks.vector("packed", packed, DType.U8, packedBytes(n));
    Checks.vector("absmax", absmax, nestedBlockSize == 0 ? DType.F32 : DType.U8, blocks);
    if (nestedBlockSize != 0) {
      Checks.vector(
          "nestedAbsmax",
          Checks.present("nestedAbsmax", nestedAbsmax),
          DType.F32,
          blocks(blocks, nestedBlockSize));
      Checks.vector("nestedOffset", Checks.present("nestedOffset", nestedOffset), DType.F32, 1);
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_quantize_4bit_params params =
          frame
              .quantize4bit
              .format(format.code())
              .dtype(input.dtype().code())
              .block_size(blockSize)
              .nested_block_size(nestedBlockSize)
              .reserved(0)
              .n(n)
              .input(pack.address(input))
              .packed(pack.address(packed))
              .absmax(pack.address(absmax))
              .nested_absmax(pack.address(nestedBlockSize == 0 ? null : nestedAbsmax))
              .nested_offset(pack.address(nestedBlockSize == 0 ? null : nestedOffset))
              .workspace(DeviceAddress.NULL)
              .workspace_bytes(0);
      Status.check(qlora4j.q4j_quantize_4bit_workspace_size(pack.context(), params, frame.bytes));
      long scratch = frame.bytes.get();
      params.workspace(pack.scratch("quantize_4bit", scratch)).workspace_bytes(scratch);
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_quantize_4bit(pack.context(), params));
      }
    }
  }

  /**
   * Dequantizes a 4-bit weight: code value times absmax in f32, rounded once to the output's type.
   *
   * @param weight NF4 or FP4, canonical, [rows, cols]
   * @param output F32, BF16 or F16, contiguous, rows * cols elements
   */
  public static void dequantize(KernelPack pack, Weight weight, DeviceTensor output) {
    if (!weight.format().is4Bit()) {
      throw new IllegalArgumentException(
          "dequantize a weight in NF4 or FP4, found " + weight.format());
    }
    if (weight.layout() != WeightLayout.CANONICAL) {
      throw new IllegalArgumentException("unpack a packed weight before dequantizing it");
    }
    Checks.floating("output", output);
    Checks.elements("output", output, weight.rows() * weight.cols());
    Checks.contiguous("output", output);
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_dequantize_4bit_params params =
          frame
              .dequantize4bit
              .dtype(output.dtype().code())
              .weight(frame.weight(pack, weight))
              .output(pack.address(output));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_dequantize_4bit(pack.context(), params));
      }
    }
  }
}
