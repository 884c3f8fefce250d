// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackedWeights;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.kernels.WeightLayout;

/**
 * A 4-bit or 8-bit weight [rows, cols] in one allocation of the pack's device. 4 bits: it is made
 * in bitsandbytes' canonical layout: codes, then absmax (f32, or u8 with double quantization), then
 * nested absmax. {@link #pack} brings it into the order the pack's linear operators prefer, where
 * it has one, and {@link #unpack} back. 8 bits: a code per element, then an f32 per row.
 */
public final class QuantizedWeight implements AutoCloseable {

  private final QuantizationConfig config;
  private final DType originalType;
  private final long rows;
  private final long cols;
  private final KernelPack pack;
  private float nestedOffset;
  private Parts parts;

  /** The weight's memory. Packed, {@code codes} is all of it, and the others are null. */
  private record Parts(
      DeviceBuffer memory,
      DeviceTensor codes,
      @Nullable DeviceTensor absmax,
      @Nullable DeviceTensor nestedAbsmax) {}

  private QuantizedWeight(
      KernelPack pack, QuantizationConfig config, DType originalType, long rows, long cols) {
    this.pack = pack;
    this.config = config;
    this.originalType = originalType;
    this.rows = rows;
    this.cols = cols;
    this.parts = allocate(pack, config, rows, cols);
  }

  private static Parts allocate(KernelPack pack, QuantizationConfig config, long rows, long cols) {
    long elements = Math.multiplyExact(rows, cols);
    if (!config.format().is4Bit()) {
      DType type = config.format() == WeightFormat.INT8 ? DType.I8 : DType.F8_E4M3;
      DeviceBuffer memory =
          DeviceBuffer.allocate(pack, align(elements) + align(rows * Float.BYTES));
      return new Parts(
          memory,
          DeviceTensor.of(memory, 0, type, rows, cols),
          DeviceTensor.of(memory, align(elements), DType.F32, rows),
          null);
    }
    long blocks = config.blocks(elements);
    long codeBytes = align((elements + 1) / 2);
    long absmaxBytes = align(config.doubleQuantization() ? blocks : blocks * Float.BYTES);
    long nestedBlocks = config.nestedBlocks(elements);
    long nestedBytes = config.doubleQuantization() ? align(nestedBlocks * Float.BYTES) : 0;
    DeviceBuffer memory = DeviceBuffer.allocate(pack, codeBytes + absmaxBytes + nestedBytes);
    return new Parts(
        memory,
        DeviceTensor.of(memory, 0, DType.U8, (elements + 1) / 2),
        DeviceTensor.of(
            memory, codeBytes, config.doubleQuantization() ? DType.U8 : DType.F32, blocks),
        config.doubleQuantization()
            ? DeviceTensor.of(memory, codeBytes + absmaxBytes, DType.F32, nestedBlocks)
            : null);
  }

  /** Quantizes {@code dense} [rows, cols] of f32, bf16 or f16. */
  public static QuantizedWeight quantize(
      KernelPack pack, DeviceTensor dense, QuantizationConfig config) {
    QuantizedWeight weight =
        new QuantizedWeight(pack, config, dense.dtype(), dense.rows(), dense.cols());
    if (!config.format().is4Bit()) {
      weight.quantizeRows(dense);
      return weight;
    }
    try (DeviceBuffer offsetMemory = DeviceBuffer.allocate(pack, Float.BYTES)) {
      DeviceTensor offset = DeviceTensor.of(offsetMemory, 0, DType.F32, 1);
      Quantization4Bit.quantize(
          pack,
          config.format(),
          dense,
          config.blockSize(),
          config.nestedBlockSize(),
          weight.codes(),
          weight.absmax(),
          weight.nestedAbsmax(),
          config.doubleQuantization() ? offset : null);
      weight.nestedOffset = config.doubleQuantization() ? offset.toFloats()[0] : 0f;
      return weight;
    } catch (RuntimeException e) {
      weight.close();
      throw e;
    }
  }

  private void quantizeRows(DeviceTensor dense) {
    try {
      if (config.format() == WeightFormat.INT8) {
        QuantizationInt8.quantize(pack, dense, 0, codes(), absmax(), null);
      } else {
        QuantizationFp8.quantize(pack, dense, codes(), absmax());
      }
    } catch (RuntimeException e) {
      close();
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

  /**
   * u8 [(rows * cols + 1) / 2], the first element in the high nibble; with INT8 and FP8 one code an
   * element, [rows, cols]. Not of a packed weight.
   */
  public DeviceTensor codes() {
    requireCanonical();
    return parts.codes();
  }

  /**
   * f32, or u8 codes with double quantization: [blocks]; with INT8 and FP8 f32 [rows]. Not of a
   * packed weight.
   */
  public DeviceTensor absmax() {
    DeviceTensor absmax = parts.absmax();
    if (absmax == null) {
      throw packed();
    }
    return absmax;
  }

  /** f32 [ceil(blocks / 256)], or null without double quantization. Not of a packed weight. */
  public @Nullable DeviceTensor nestedAbsmax() {
    requireCanonical();
    return parts.nestedAbsmax();
  }

  private void requireCanonical() {
    if (isPacked()) {
      throw packed();
    }
  }

  private static IllegalStateException packed() {
    return new IllegalStateException("the weight is packed; its parts are there after unpack()");
  }

  /** Whether {@link #pack} brought the weight into the pack's own order. */
  public boolean isPacked() {
    return parts.absmax() == null;
  }

  /**
   * Brings the weight into the pack's own order, where the pack has one, and releases the canonical
   * memory. Both exist while this runs.
   */
  public void pack() {
    if (!config.format().is4Bit() || isPacked() || !PackedWeights.supported(pack)) {
      return;
    }
    Weight canonical = weight();
    long bytes = PackedWeights.bytes(pack, canonical);
    DeviceBuffer memory = DeviceBuffer.allocate(pack, bytes);
    try {
      DeviceTensor data = DeviceTensor.of(memory, 0, DType.U8, bytes);
      PackedWeights.pack(pack, canonical, data);
      replace(new Parts(memory, data, null, null));
    } catch (RuntimeException e) {
      memory.close();
      throw e;
    }
  }

  /** Brings a packed weight back into the canonical layout, bit for bit, to be saved or read. */
  public void unpack() {
    if (!isPacked()) {
      return;
    }
    Parts canonical = allocate(pack, config, rows, cols);
    try {
      DeviceTensor absmax = Objects.requireNonNull(canonical.absmax());
      PackedWeights.unpack(pack, weight(), canonical.codes(), absmax, canonical.nestedAbsmax());
      replace(canonical);
    } catch (RuntimeException e) {
      canonical.memory().close();
      throw e;
    }
  }

  private void replace(Parts by) {
    DeviceBuffer old = parts.memory();
    parts = by;
    old.close();
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
    return parts.memory().bytes();
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
        parts.codes(),
        parts.absmax(),
        parts.nestedAbsmax(),
        isPacked() ? WeightLayout.PACKED : WeightLayout.CANONICAL);
  }

  @Override
  public void close() {
    parts.memory().close();
  }

  private static long align(long bytes) {
    return (bytes + 63) / 64 * 64;
  }
}
