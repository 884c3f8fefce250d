// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.q4j_dequantize_8bit_blockwise_params;
import org.qlora4j.kernels.abi.q4j_quantize_8bit_blockwise_params;
import org.qlora4j.kernels.abi.qlora4j;

/** Blockwise 8-bit codes of a dynamic map, as optimizer states use them. */
public final class Quantization8Bit {
  private Quantization8Bit() {}

  /** The 256 values a code can stand for, relative to the block's absmax. */
  public enum Map {
    /** -1 to 1. */
    DYNAMIC_SIGNED(qlora4j.Q4J_MAP_DYNAMIC_SIGNED),
    /** 0 to 1, finer. */
    DYNAMIC_UNSIGNED(qlora4j.Q4J_MAP_DYNAMIC_UNSIGNED);

    private final int code;

    Map(int code) {
      this.code = code;
    }

    /** Value of the ABI's {@code q4j_map_8bit}. */
    public int code() {
      return code;
    }
  }

  /**
   * Quantizes: code = exact nearest of {@code x / absmax(block)} in the map, ties to the lower
   * index.
   *
   * @param input F32, n elements
   * @param codes U8, n elements
   * @param absmax F32, one per block of {@code blockSize} elements
   */
  public static void quantize(
      KernelPack pack,
      Map map,
      int blockSize,
      DeviceTensor input,
      DeviceTensor codes,
      DeviceTensor absmax) {
    long n = check(blockSize, input, codes, absmax, "input");
    synchronized (pack.lock()) {
      q4j_quantize_8bit_blockwise_params params =
          pack.frame()
              .quantize8bit
              .map(map.code())
              .block_size(blockSize)
              .reserved(0)
              .n(n)
              .input(pack.address(input))
              .codes(pack.address(codes))
              .absmax(pack.address(absmax));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_quantize_8bit_blockwise(pack.context(), params));
      }
    }
  }

  /**
   * Dequantizes: {@code map[code] * absmax(block)}.
   *
   * @param codes U8, n elements
   * @param absmax F32, one per block of {@code blockSize} elements
   * @param output F32, n elements
   */
  public static void dequantize(
      KernelPack pack,
      Map map,
      int blockSize,
      DeviceTensor codes,
      DeviceTensor absmax,
      DeviceTensor output) {
    long n = check(blockSize, output, codes, absmax, "output");
    synchronized (pack.lock()) {
      q4j_dequantize_8bit_blockwise_params params =
          pack.frame()
              .dequantize8bit
              .map(map.code())
              .block_size(blockSize)
              .reserved(0)
              .n(n)
              .codes(pack.address(codes))
              .absmax(pack.address(absmax))
              .output(pack.address(output));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_dequantize_8bit_blockwise(pack.context(), params));
      }
    }
  }

  private static long check(
      int blockSize,
      DeviceTensor values,
      DeviceTensor codes,
      DeviceTensor absmax,
      String valuesName) {
    if (blockSize <= 0) {
      throw new IllegalArgumentException("block size must be positive, found " + blockSize);
    }
    long n = values.elements();
    Checks.vector(valuesName, values, DType.F32, n);
    Checks.vector("codes", codes, DType.U8, n);
    Checks.vector("absmax", absmax, DType.F32, Quantization4Bit.blocks(n, blockSize));
    return n;
  }
}
