// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Weight;

/**
 * A 4-bit weight [rows, cols] in bitsandbytes' canonical layout, in one allocation of the pack's
 * device: codes, then absmax (f32, or u8 with double quantization), then nested absmax.
 */
public final class QuantizedWeight implements AutoCloseable {

  private final QuantizationConfig config;
  private final DType originalType;
  private final long rows;
  private final long cols;
  private final DeviceBuffer memory;
  private final DeviceTensor codes;
  private final DeviceTensor absmax;
  private final @Nullable DeviceTensor nestedAbsmax;
  private float nestedOffset;

  private QuantizedWeight(
      KernelPack pack, QuantizationConfig config, DType originalType, long rows, long cols) {
    this.config = config;
    this.originalType = originalType;
    this.rows = rows;
    this.cols = cols;
    long elements = Math.multiplyExact(rows, cols);
    long blocks = config.blocks(elements);
    long codeBytes = align((elements + 1) / 2);
    long absmaxBytes = align(config.doubleQuantization() ? blocks : blocks * Float.BYTES);
    long nestedBlocks = config.nestedBlocks(elements);
    long nestedBytes = config.doubleQuantization() ? align(nestedBlocks * Float.BYTES) : 0;
    this.memory = DeviceBuffer.allocate(pack, codeBytes + absmaxBytes + nestedBytes);
    this.codes = DeviceTensor.of(memory, 0, DType.U8, (elements + 1) / 2);
    this.absmax =
        DeviceTensor.of(
            memory, codeBytes, config.doubleQuantization() ? DType.U8 : DType.F32, blocks);
    this.nestedAbsmax =
        config.doubleQuantization()
            ? DeviceTensor.of(memory, codeBytes + absmaxBytes, DType.F32, nestedBlocks)
            : null;
  }

  /** Quantizes {@code dense} [rows, cols] of f32, bf16 or f16. */
  public static QuantizedWeight quantize(
      KernelPack pack, DeviceTensor dense, QuantizationConfig config) {
    QuantizedWeight weight =
        new QuantizedWeight(pack, config, dense.dtype(), dense.rows(), dense.cols());
    try (DeviceBuffer offsetMemory = DeviceBuffer.allocate(pack, Float.BYTES)) {
      DeviceTensor offset = DeviceTensor.of(offsetMemory, 0, DType.F32, 1);
      Quantization4Bit.quantize(
          pack,
          config.format(),
          dense,
          config.blockSize(),
          config.nestedBlockSize(),
          weight.codes,
          weight.absmax,
          weight.nestedAbsmax,
          config.doubleQuantization() ? offset : null);
      weight.nestedOffset = config.doubleQuantization() ? offset.toFloats()[0] : 0f;
      return weight;
    } catch (RuntimeException e) {
      weight.close();
      throw e;
    }
  }

  /**
   * Memory for a weight whose stored parts the caller copies into {@link #codes}, {@link #absmax},
   * {@link #nestedAbsmax}.
   */
  public static QuantizedWeight allocate(
      KernelPack pack,
      QuantizationConfig config,
      DType originalType,
      long rows,
      long cols,
      float nestedOffset) {
    QuantizedWeight weight = new QuantizedWeight(pack, config, originalType, rows, cols);
    weight.nestedOffset = nestedOffset;
    return weight;
  }

  public QuantizationConfig config() {
    return config;
  }

  /** Element type the weight had before it was quantized. */
  public DType originalType() {
    return originalType;
  }

  public long rows() {
    return rows;
  }

  public long cols() {
    return cols;
  }

  /** u8 [(rows * cols + 1) / 2], the first element in the high nibble. */
  public DeviceTensor codes() {
    return codes;
  }

  /** f32, or u8 codes with double quantization: [blocks]. */
  public DeviceTensor absmax() {
    return absmax;
  }

  /** f32 [ceil(blocks / 256)], or null without double quantization. */
  public @Nullable DeviceTensor nestedAbsmax() {
    return nestedAbsmax;
  }

  /**
   * Mean of the absmax values that was subtracted before they were coded; 0 without double
   * quantization.
   */
  public float nestedOffset() {
    return nestedOffset;
  }

  /** Bytes on the device. */
  public long bytes() {
    return memory.bytes();
  }

  /** The weight as the pack's operators take it. */
  public Weight weight() {
    return new Weight(
        config.format(),
        originalType,
        config.blockSize(),
        config.nestedBlockSize(),
        nestedOffset,
        rows,
        cols,
        codes,
        absmax,
        nestedAbsmax);
  }

  @Override
  public void close() {
    memory.close();
  }

  private static long align(long bytes) {
    return (bytes + 63) / 64 * 64;
  }
}
