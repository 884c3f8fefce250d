// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackedWeights;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;

/** Weights for the tests of linears, the same bits on every pack. */
final class Weights {
  private Weights() {}

  /** How a test stores a weight. */
  enum Kind {
    DENSE_F32(WeightFormat.DENSE, DType.F32, 0, 0, false),
    DENSE_BF16(WeightFormat.DENSE, DType.BF16, 0, 0, false),
    NF4(WeightFormat.NF4, DType.BF16, 64, 0, false),
    NF4_NESTED(WeightFormat.NF4, DType.BF16, 64, 256, false),
    NF4_NESTED_128(WeightFormat.NF4, DType.F32, 128, 256, false),
    FP4_NESTED(WeightFormat.FP4, DType.BF16, 64, 256, false),
    INT8(WeightFormat.INT8, DType.BF16, 0, 0, false),
    FP8(WeightFormat.FP8, DType.BF16, 0, 0, false),
    PACKED_NF4(WeightFormat.NF4, DType.BF16, 64, 256, true),
    PACKED_FP4(WeightFormat.FP4, DType.BF16, 128, 0, true);

    /** Those that are not packed. */
    static final List<Kind> CANONICAL =
        Arrays.stream(values()).filter(kind -> !kind.packed).toList();

    final WeightFormat format;
    final DType dtype;
    final int blockSize;
    final int nested;

    /** Rearranged by the pack that is tested. */
    final boolean packed;

    Kind(WeightFormat format, DType dtype, int blockSize, int nested, boolean packed) {
      this.format = format;
      this.dtype = dtype;
      this.blockSize = blockSize;
      this.nested = nested;
      this.packed = packed;
    }
  }

  /**
   * The weight [rows, cols] with these values; quantized by the reference pack, so that packs
   * differ in the linear alone.
   */
  static Weight of(DeviceMemory memory, Kind kind, float[] values, int rows, int cols) {
    if (kind.format == WeightFormat.DENSE) {
      return Weight.dense(memory.of(kind.dtype, values, rows, cols));
    }
    if (!kind.format.is4Bit()) {
      return rowwise(memory, kind, values, rows, cols);
    }
    long n = (long) rows * cols;
    long blocks = Quantization4Bit.blocks(n, kind.blockSize);
    KernelPack reference = Packs.reference();
    try (DeviceMemory quantizer = new DeviceMemory(reference)) {
      DeviceTensor packed = quantizer.empty(DType.U8, Quantization4Bit.packedBytes(n));
      DeviceTensor absmax = quantizer.empty(kind.nested == 0 ? DType.F32 : DType.U8, blocks);
      DeviceTensor nestedAbsmax = null;
      DeviceTensor offset = null;
      if (kind.nested != 0) {
        nestedAbsmax = quantizer.empty(DType.F32, Quantization4Bit.blocks(blocks, kind.nested));
        offset = quantizer.empty(DType.F32, 1);
      }
      Quantization4Bit.quantize(
          reference,
          kind.format,
          quantizer.of(kind.dtype, values, n),
          kind.blockSize,
          kind.nested,
          packed,
          absmax,
          nestedAbsmax,
          offset);
      Weight canonical =
          new Weight(
              kind.format,
              kind.dtype,
              kind.blockSize,
              kind.nested,
              offset == null ? 0 : offset.toFloats()[0],
              rows,
              cols,
              copy(memory, packed),
              copy(memory, absmax),
              nestedAbsmax == null ? null : copy(memory, nestedAbsmax));
      if (!kind.packed) {
        return canonical;
      }
      long bytes = PackedWeights.bytes(memory.pack(), canonical);
      return PackedWeights.pack(memory.pack(), canonical, memory.empty(DType.U8, bytes));
    }
  }

  private static Weight rowwise(
      DeviceMemory memory, Kind kind, float[] values, int rows, int cols) {
    boolean int8 = kind.format == WeightFormat.INT8;
    KernelPack reference = Packs.reference();
    try (DeviceMemory quantizer = new DeviceMemory(reference)) {
      DeviceTensor input = quantizer.of(kind.dtype, values, rows, cols);
      DeviceTensor codes = quantizer.empty(int8 ? DType.I8 : DType.F8_E4M3, rows, cols);
      DeviceTensor scales = quantizer.empty(DType.F32, rows);
      if (int8) {
        QuantizationInt8.quantize(reference, input, 0, codes, scales, null);
        return Weight.int8(kind.dtype, copy(memory, codes), copy(memory, scales));
      }
      QuantizationFp8.quantize(reference, input, codes, scales);
      return Weight.fp8(kind.dtype, copy(memory, codes), copy(memory, scales));
    }
  }

  private static DeviceTensor copy(DeviceMemory memory, @Nullable DeviceTensor source) {
    if (source == null) {
      throw new IllegalArgumentException("nothing to copy");
    }
    return memory.of(source.dtype(), source.toBytes(), source.shape());
  }
}
