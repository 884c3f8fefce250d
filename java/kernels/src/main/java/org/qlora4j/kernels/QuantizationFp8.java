// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.qlora4j.kernels.abi.q4j_dequantize_fp8_rowwise_params;
import org.qlora4j.kernels.abi.q4j_quantize_fp8_rowwise_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * Row-wise FP8 E4M3 with one scale per row (Micikevicius et al. 2022; PyTorch's {@code
 * float8_e4m3fn}): no infinities, largest value 448.
 */
public final class QuantizationFp8 {
  /** Largest E4M3 value: what the largest magnitude of a row is scaled to. */
  public static final float LARGEST = 448;

  private QuantizationFp8() {}

  /**
   * Quantizes: scale = {@code absmax(row) / 448}, code = {@code x / scale} rounded to the nearest
   * E4M3 value, half to even. A row of zeros has scale 0 and codes 0; a row that holds a NaN or an
   * infinity dequantizes to NaN.
   *
   * @param input F32, BF16 or F16 [rows, cols], contiguous
   * @param codes F8_E4M3 [rows, cols]
   * @param rowScale F32 [rows]
   */
  public static void quantize(
      KernelPack pack, DeviceTensor input, DeviceTensor codes, DeviceTensor rowScale) {
    Checks.floating("input", input);
    check(input, "input", codes, rowScale);
    synchronized (pack.lock()) {
      q4j_quantize_fp8_rowwise_params params =
          pack.frame()
              .quantizeFp8
              .dtype(input.dtype().code())
              .rows(input.rows())
              .cols(input.cols())
              .input(pack.address(input))
              .codes(pack.address(codes))
              .row_scale(pack.address(rowScale));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_quantize_fp8_rowwise(pack.context(), params));
      }
    }
  }

  /**
   * Dequantizes: {@code value * scale(row)} in f32, rounded once to the output's type.
   *
   * @param codes F8_E4M3 [rows, cols]
   * @param rowScale F32 [rows]
   * @param output F32, BF16 or F16 [rows, cols], contiguous
   */
  public static void dequantize(
      KernelPack pack, DeviceTensor codes, DeviceTensor rowScale, DeviceTensor output) {
    Checks.floating("output", output);
    check(output, "output", codes, rowScale);
    synchronized (pack.lock()) {
      q4j_dequantize_fp8_rowwise_params params =
          pack.frame()
              .dequantizeFp8
              .dtype(output.dtype().code())
              .rows(output.rows())
              .cols(output.cols())
              .codes(pack.address(codes))
              .row_scale(pack.address(rowScale))
              .output(pack.address(output));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_dequantize_fp8_rowwise(pack.context(), params));
      }
    }
  }

  private static void check(
      DeviceTensor values, String name, DeviceTensor codes, DeviceTensor rowScale) {
    Checks.contiguous(name, values);
    Checks.type("codes", codes, DType.F8_E4M3);
    Checks.sameShape("codes", codes, name, values);
    Checks.contiguous("codes", codes);
    Checks.vector("rowScale", rowScale, DType.F32, values.rows());
  }
}
