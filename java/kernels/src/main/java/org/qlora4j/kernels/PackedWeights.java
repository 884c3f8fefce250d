// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_pack_weight_params;
import org.qlora4j.kernels.abi.q4j_unpack_weight_params;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * 4-bit weights in the order in which a pack's linear operators read them fastest. Packing loses
 * nothing and takes no more memory than alignment; the order is the pack's own, so files hold
 * canonical weights.
 */
public final class PackedWeights {
  /** Alignment of a packed weight's memory in bytes. */
  public static final int ALIGNMENT = 64;

  private PackedWeights() {}

  /** Whether the pack has an order of its own: both operators of this class. */
  public static boolean supported(KernelPack pack) {
    return pack.supports("pack_weight") && pack.supports("unpack_weight");
  }

  /** Bytes that {@code weight} takes packed. */
  public static long bytes(KernelPack pack, Weight weight) {
    return run(pack, weight, null);
  }

  /**
   * Packs a weight.
   *
   * @param weight NF4 or FP4, canonical; not needed any more when the pack has done the work
   * @param memory U8 [{@link #bytes}], aligned to {@link #ALIGNMENT} bytes
   * @return the weight over {@code memory}
   */
  public static Weight pack(KernelPack pack, Weight weight, DeviceTensor memory) {
    Checks.vector("memory", memory, DType.U8, bytes(pack, weight));
    if (!pack.isDryRun()) {
      run(pack, weight, memory);
    }
    return weight.packed(memory);
  }

  /**
   * Gives back what {@link #pack} was given, bit for bit.
   *
   * @param weight a packed weight of this pack
   * @param data U8 [(rows * cols + 1) / 2]
   * @param absmax one F32 per block, or one U8 code per block with double quantization
   * @param nestedAbsmax F32, one per nested block; null without double quantization
   * @return the canonical weight over these tensors
   */
  public static Weight unpack(
      KernelPack pack,
      Weight weight,
      DeviceTensor data,
      DeviceTensor absmax,
      @Nullable DeviceTensor nestedAbsmax) {
    if (weight.layout() != WeightLayout.PACKED) {
      throw new IllegalArgumentException("the weight is canonical already");
    }
    Weight canonical =
        new Weight(
            weight.format(),
            weight.dtype(),
            weight.blockSize(),
            weight.nestedBlockSize(),
            weight.nestedOffset(),
            weight.rows(),
            weight.cols(),
            data,
            absmax,
            nestedAbsmax);
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_unpack_weight_params params =
          frame
              .unpackWeight
              .reserved(0)
              .weight(frame.weight(pack, weight))
              .data(pack.address(data))
              .absmax(pack.address(absmax))
              .nested_absmax(pack.address(nestedAbsmax));
      if (!pack.isDryRun()) {
        Status.check(qlora4j.q4j_unpack_weight(pack.context(), params));
      }
    }
    return canonical;
  }

  /** Packs into {@code memory}, or only measures without it. */
  private static long run(KernelPack pack, Weight weight, @Nullable DeviceTensor memory) {
    if (!weight.format().is4Bit() || weight.layout() != WeightLayout.CANONICAL) {
      throw new IllegalArgumentException(
          "only a canonical 4-bit weight is packed, found "
              + weight.format()
              + " "
              + weight.layout());
    }
    synchronized (pack.lock()) {
      Frame frame = pack.frame();
      q4j_pack_weight_params params =
          frame
              .packWeight
              .reserved(0)
              .weight(frame.weight(pack, weight))
              .packed(pack.address(memory))
              .packed_bytes(frame.bytes);
      Status.check(qlora4j.q4j_pack_weight(pack.context(), params));
      return frame.bytes.get();
    }
  }
}
