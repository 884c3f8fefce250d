// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tensor.TorchBridge;

/**
 * A weight [n, k] of one shape for {@link LinearBench}: copies in its format as a model would hold
 * them, and the dense matrix it stands for, computed by the reference pack, in copies for libtorch.
 */
final class LinearWeights implements AutoCloseable {
  private static final double DEVIATION = 0.02;

  /** Of a small weight, more copies would only take time to make. */
  private static final int MAXIMUM_COPIES = 256;

  private final KernelPack pack;
  private final List<AutoCloseable> memory = new ArrayList<>();
  private final List<Weight> weights = new ArrayList<>();
  private final List<DeviceTensor> dense = new ArrayList<>();
  private final List<DeviceTensor> transposed = new ArrayList<>();

  /** Quantized 4-bit weights wait here to be packed: the reference reads canonical ones. */
  private final List<QuantizedWeight> canonical = new ArrayList<>();

  private final long bytes;

  /**
   * @param outOfCache what all copies together must have in bytes, so that none stays in a cache
   */
  LinearWeights(
      KernelPack pack,
      KernelPack reference,
      WeightFormat format,
      DType compute,
      long n,
      long k,
      long outOfCache) {
    this.pack = pack;
    try (PointerScope outer = new PointerScope()) {
      DeviceTensor original = allocate(compute, n, k);
      try (PointerScope scope = new PointerScope()) {
        TorchBridge.view(original).copy_(torch.randn(n, k).mul_(new Scalar(DEVIATION)));
      }
      Weight first = quantize(format, original);
      bytes = first.bytes();
      DeviceTensor meant = format == WeightFormat.DENSE ? original : allocate(compute, n, k);
      dequantize(reference, first, meant);
      long copies = copies(outOfCache, bytes);
      weights.add(ready(first));
      while (weights.size() < copies) {
        weights.add(ready(quantize(format, original)));
      }
      long denseCopies = copies(outOfCache, meant.bytes());
      dense.add(meant);
      while (dense.size() < denseCopies) {
        DeviceTensor copy = allocate(compute, n, k);
        TorchBridge.copy(meant, copy);
        dense.add(copy);
      }
      while (transposed.size() < denseCopies) {
        DeviceTensor copy = allocate(compute, k, n);
        TorchBridge.view(copy).copy_(TorchBridge.view(meant).t());
        transposed.add(copy);
      }
    } catch (RuntimeException e) {
      close();
      throw e;
    }
  }

  private static long copies(long outOfCache, long bytes) {
    return Math.max(1, Math.min(MAXIMUM_COPIES, (outOfCache + bytes - 1) / bytes));
  }

  /** Memory that copies of all kinds take. */
  static long bytesNeeded(DType compute, long n, long k, long outOfCache) {
    return 4 * Math.max(outOfCache, n * k * compute.bytes()) + n * k * Float.BYTES;
  }

  private DeviceTensor allocate(DType type, long... shape) {
    long elements = 1;
    for (long extent : shape) {
      elements *= extent;
    }
    DeviceBuffer buffer = DeviceBuffer.allocate(pack, elements * type.bytes());
    memory.add(buffer);
    return DeviceTensor.of(buffer, 0, type, shape);
  }

  private Weight quantize(WeightFormat format, DeviceTensor original) {
    long n = original.rows();
    long k = original.cols();
    switch (format) {
      case NF4, FP4 -> {
        QuantizedWeight made =
            QuantizedWeight.quantize(pack, original, new QuantizationConfig(format, 64, true));
        memory.add(made);
        canonical.add(made);
        return made.weight();
      }
      case INT8 -> {
        DeviceTensor codes = allocate(DType.I8, n, k);
        DeviceTensor scales = allocate(DType.F32, n);
        QuantizationInt8.quantize(pack, original, 0, codes, scales, null);
        return Weight.int8(original.dtype(), codes, scales);
      }
      case FP8 -> {
        DeviceTensor codes = allocate(DType.F8_E4M3, n, k);
        DeviceTensor scales = allocate(DType.F32, n);
        QuantizationFp8.quantize(pack, original, codes, scales);
        return Weight.fp8(original.dtype(), codes, scales);
      }
      case DENSE -> {
        if (weights.isEmpty()) {
          return Weight.dense(original);
        }
        DeviceTensor copy = allocate(original.dtype(), n, k);
        TorchBridge.copy(original, copy);
        return Weight.dense(copy);
      }
    }
    throw new IllegalStateException(format.name());
  }

  /** As a model holds it: in the pack's own order, where it has one. */
  private Weight ready(Weight made) {
    if (!made.format().is4Bit()) {
      return made;
    }
    QuantizedWeight quantized = canonical.remove(0);
    quantized.pack();
    return quantized.weight();
  }

  /** Writes the values of {@code weight}, rounded to the type of {@code out}. */
  static void dequantize(KernelPack reference, Weight weight, DeviceTensor out) {
    switch (weight.format()) {
      case NF4, FP4 -> Quantization4Bit.dequantize(reference, weight, out);
      case INT8 ->
          QuantizationInt8.dequantize(
              reference, weight.data(), Objects.requireNonNull(weight.absmax()), out);
      case FP8 ->
          QuantizationFp8.dequantize(
              reference, weight.data(), Objects.requireNonNull(weight.absmax()), out);
      case DENSE -> {
        if (weight.data() != out) {
          try (PointerScope scope = new PointerScope()) {
            TorchBridge.view(out).copy_(TorchBridge.view(weight.data()));
          }
        }
      }
    }
  }

  /** Copy number {@code index}, counted round and round. */
  Weight weight(int index) {
    return weights.get(index % weights.size());
  }

  /** The dense matrix, [n, k]. */
  DeviceTensor dense(int index) {
    return dense.get(index % dense.size());
  }

  /** The dense matrix, [k, n]. */
  DeviceTensor transposed(int index) {
    return transposed.get(index % transposed.size());
  }

  /** Bytes of one weight. */
  long bytes() {
    return bytes;
  }

  /** f32 values of the dense matrix, for an oracle; in the caller's scope. */
  Tensor values() {
    return TorchBridge.view(dense.get(0)).to(ScalarType.Float);
  }

  @Override
  public void close() {
    for (AutoCloseable part : memory) {
      try {
        part.close();
      } catch (Exception e) {
        throw new IllegalStateException(e);
      }
    }
    memory.clear();
  }
}
