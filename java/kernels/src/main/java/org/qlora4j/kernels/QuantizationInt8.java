// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_dequantize_int8_rowwise_params;
import org.qlora4j.kernels.abi.q4j_quantize_int8_rowwise_params;
import org.qlora4j.kernels.abi.qlora4j;

/** Row-wise INT8 with one scale per row (LLM.int8). */
public final class QuantizationInt8 {
  private QuantizationInt8() {}

  /**
   * Quantizes: code = {@code x * (127 / absmax(row))}, rounded half to even.
   *
   * @param input F32, BF16 or F16 [rows, cols], contiguous
   * @param outlierThreshold elements of at least this magnitude are left out of the row maximum,
   *     and columns that hold one get code 0; 0 switches that off
   * @param codes I8 [rows, cols]
   * @param rowAbsmax F32 [rows]
   * @param outlierCols U8 [cols], 1 where the column holds an outlier; required with a threshold,
   *     else null
   */
  public static void quantize(
      KernelPack pack,
      DeviceTensor input,
      float outlierThreshold,
      DeviceTensor codes,
      DeviceTensor rowAbsmax,
      @Nullable DeviceTensor outlierCols) {
    Checks.floating("input", input);
    check(input, "input", codes, rowAbsmax);
    if (!(outlierThreshold >= 0)) {
      throw new IllegalArgumentException(
          "outlier threshold cannot be negative, found " + outlierThreshold);
    }
    if (outlierThreshold > 0) {
      Checks.vector(
          "outlierCols", Checks.present("outlierCols", outlierCols), DType.U8, input.cols());
    }
    synchronized (pack.lock()) {
      q4j_quantize_int8_rowwise_params params =
          pack.frame()
              .quantizeInt8
              .dtype(input.dtype().code())
              .outlier_threshold(outlierThreshold)
              .reserved(0)
              .rows(input.rows())
              .cols(input.cols())
              .input(pack.address(input))
              .codes(pack.address(codes))
              .row_absmax(pack.address(rowAbsmax))
              .outlier_cols(pack.address(outlierCols));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_quantize_int8_rowwise(pack.context(), params));
      }
    }
  }

  /**
   * Dequantizes: {@code code * (absmax(row) / 127)} in f32, rounded once to the output's type.
   *
   * @param codes I8 [rows, cols]
   * @param rowAbsmax F32 [rows]
   * @param output F32, BF16 or F16 [rows, cols], contiguous
   */
  public static void dequantize(
      KernelPack pack, DeviceTensor codes, DeviceTensor rowAbsmax, DeviceTensor output) {
    Checks.floating("output", output);
    check(output, "output", codes, rowAbsmax);
    synchronized (pack.lock()) {
      q4j_dequantize_int8_rowwise_params params =
          pack.frame()
              .dequantizeInt8
              .dtype(output.dtype().code())
              .rows(output.rows())
              .cols(output.cols())
              .codes(pack.address(codes))
              .row_absmax(pack.address(rowAbsmax))
              .output(pack.address(output));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_dequantize_int8_rowwise(pack.context(), params));
      }
    }
  }

  private static void check(
      DeviceTensor values, String name, DeviceTensor codes, DeviceTensor rowAbsmax) {
    Checks.contiguous(name, values);
    Checks.type("codes", codes, DType.I8);
    Checks.sameShape("codes", codes, name, values);
    Checks.contiguous("codes", codes);
    Checks.vector("rowAbsmax", rowAbsmax, DType.F32, values.rows());
  }
}
