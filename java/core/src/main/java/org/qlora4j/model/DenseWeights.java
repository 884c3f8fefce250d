// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackedWeights;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightLayout;
import org.qlora4j.tensor.TensorArena;

/** The values of a weight, however it is held. */
final class DenseWeights {
  private DenseWeights() {}

  /**
   * The weight [rows, cols] as {@code type}; of a dense one its own memory, of whatever type.
   *
   * @param arena holds the values, until the caller goes back to a mark
   */
  static DeviceTensor of(KernelPack pack, TensorArena arena, Weight weight, DType type) {
    if (!weight.format().is4Bit()) {
      return switch (weight.format()) {
        case INT8 -> {
          DeviceTensor dense = arena.allocate(type, weight.rows(), weight.cols());
          DeviceTensor absmax = Objects.requireNonNull(weight.absmax());
          QuantizationInt8.dequantize(pack, weight.data(), absmax, dense);
          yield dense;
        }
        case FP8 -> {
          DeviceTensor dense = arena.allocate(type, weight.rows(), weight.cols());
          DeviceTensor scale = Objects.requireNonNull(weight.absmax());
          QuantizationFp8.dequantize(pack, weight.data(), scale, dense);
          yield dense;
        }
        default -> weight.data();
      };
    }
    DeviceTensor dense = arena.allocate(type, weight.rows(), weight.cols());
    TensorArena.Mark mark = arena.mark();
    Quantization4Bit.dequantize(pack, canonical(pack, arena, weight), dense);
    arena.release(mark);
    return dense;
  }

  private static Weight canonical(KernelPack pack, TensorArena arena, Weight weight) {
    if (weight.layout() == WeightLayout.CANONICAL) {
      return weight;
    }
    long elements = weight.rows() * weight.cols();
    long blocks = (elements + weight.blockSize() - 1) / weight.blockSize();
    int nested = weight.nestedBlockSize();
    DeviceTensor data = arena.allocate(DType.U8, Quantization4Bit.packedBytes(elements));
    DeviceTensor absmax = arena.allocate(nested > 0 ? DType.U8 : DType.F32, blocks);
    DeviceTensor nestedAbsmax =
        nested > 0 ? arena.allocate(DType.F32, (blocks + nested - 1) / nested) : null;
    if (pack.isDryRun()) {
      return new Weight(
          weight.format(),
          weight.dtype(),
          weight.blockSize(),
          nested,
          weight.nestedOffset(),
          weight.rows(),
          weight.cols(),
          data,
          absmax,
          nestedAbsmax);
    }
    return PackedWeights.unpack(pack, weight, data, absmax, nestedAbsmax);
  }
}
