// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackedWeights;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.kernels.WeightLayout;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.ParityTest;

/**
 * Packing loses nothing and takes no more than alignment, for weights that a pack's tiles fit and
 * for all others. (What packed weights mean is checked by {@link LinearParityTest}.)
 */
class PackWeightParityTest extends ParityTest {
  private static final long SEED = 4115;

  /** Each part starts on a boundary of 64 bytes. */
  private static final long PADDING = 2 * 63;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    for (WeightFormat format : List.of(WeightFormat.NF4, WeightFormat.FP4)) {
      for (int nested : new int[] {0, 256}) {
        for (int[] shape :
            new int[][] {
              // rows, cols, block size: tiles of 16 x 64 fit
              {16, 64, 64},
              {32, 192, 64},
              {48, 512, 256},
              {272, 704, 64},
              // and do not
              {1, 1, 64},
              {7, 9, 64},
              {15, 64, 64},
              {16, 96, 64},
              {16, 64, 128},
              {16, 64, 32},
              {3, 4099, 4096},
            }) {
          cases.add(
              new Case(
                  format
                      + " ["
                      + shape[0]
                      + ", "
                      + shape[1]
                      + "] block="
                      + shape[2]
                      + " nested="
                      + nested
                      + " seed="
                      + SEED,
                  "pack_weight",
                  (long) shape[0] * shape[1],
                  (memory, outputs) ->
                      thereAndBack(memory, outputs, format, nested, shape[0], shape[1], shape[2])));
        }
      }
    }
    return cases;
  }

  private static void thereAndBack(
      DeviceMemory memory,
      Outputs outputs,
      WeightFormat format,
      int nested,
      int rows,
      int cols,
      int blockSize) {
    SplittableRandom random = new SplittableRandom(SEED + rows + cols);
    long n = (long) rows * cols;
    long blocks = Quantization4Bit.blocks(n, blockSize);
    DType absmaxType = nested == 0 ? DType.F32 : DType.U8;
    DeviceTensor data = bytes(memory, random, DType.U8, Quantization4Bit.packedBytes(n));
    DeviceTensor absmax = bytes(memory, random, absmaxType, blocks);
    long nestedBlocks = nested == 0 ? 0 : Quantization4Bit.blocks(blocks, nested);
    DeviceTensor nestedAbsmax = nested == 0 ? null : bytes(memory, random, DType.F32, nestedBlocks);
    Weight weight =
        new Weight(
            format, DType.BF16, blockSize, nested, 0, rows, cols, data, absmax, nestedAbsmax);

    KernelPack pack = memory.pack();
    long packedBytes = PackedWeights.bytes(pack, weight);
    assertTrue(packedBytes >= weight.bytes(), packedBytes + " bytes");
    assertTrue(packedBytes <= weight.bytes() + PADDING, packedBytes + " bytes");
    Weight packed = PackedWeights.pack(pack, weight, memory.empty(DType.U8, packedBytes));
    assertEquals(WeightLayout.PACKED, packed.layout());
    DeviceTensor dataBack = memory.empty(DType.U8, Quantization4Bit.packedBytes(n));
    DeviceTensor absmaxBack = memory.empty(absmaxType, blocks);
    DeviceTensor nestedBack = nested == 0 ? null : memory.empty(DType.F32, nestedBlocks);
    Weight back = PackedWeights.unpack(pack, packed, dataBack, absmaxBack, nestedBack);
    assertEquals(WeightLayout.CANONICAL, back.layout());
    assertArrayEquals(data.toBytes(), dataBack.toBytes(), "codes");
    assertArrayEquals(absmax.toBytes(), absmaxBack.toBytes(), "absmax");
    outputs.addExact("data", dataBack);
    outputs.addExact("absmax", absmaxBack);
    if (nestedAbsmax != null) {
      DeviceTensor nestedResult = Objects.requireNonNull(nestedBack);
      assertArrayEquals(nestedAbsmax.toBytes(), nestedResult.toBytes(), "nested absmax");
      outputs.addExact("nestedAbsmax", nestedResult);
    }
  }

  /** Any bytes are a weight, also where they are the absmax. */
  private static DeviceTensor bytes(
      DeviceMemory memory, SplittableRandom random, DType type, long elements) {
    byte[] values = new byte[Math.toIntExact(elements * type.bytes())];
    random.nextBytes(values);
    return memory.of(type, values, elements);
  }

  @Test
  void aQuantizedWeightIsReleasedWhenItIsPackedAndComesBackForSaving() {
    KernelPack pack = Packs.reference();
    long before = pack.allocatedBytes();
    try (DeviceMemory memory = new DeviceMemory(pack)) {
      float[] values = new float[48 * 192];
      SplittableRandom random = new SplittableRandom(SEED);
      for (int i = 0; i < values.length; i++) {
        values[i] = (float) random.nextGaussian();
      }
      DeviceTensor dense = memory.of(DType.BF16, values, 48, 192);
      long without = pack.allocatedBytes();
      try (QuantizedWeight weight =
          QuantizedWeight.quantize(pack, dense, QuantizationConfig.nf4())) {
        byte[] codes = weight.codes().toBytes();
        byte[] absmax = weight.absmax().toBytes();
        byte[] nested = Objects.requireNonNull(weight.nestedAbsmax()).toBytes();
        long canonical = pack.allocatedBytes() - without;
        weight.pack();
        assertTrue(weight.isPacked());
        assertEquals(WeightLayout.PACKED, weight.weight().layout());
        assertTrue(
            pack.allocatedBytes() - without <= canonical + PADDING, "the canonical copy is gone");
        IllegalStateException refused = assertThrows(IllegalStateException.class, weight::codes);
        assertTrue(String.valueOf(refused.getMessage()).contains("unpack()"));
        weight.unpack();
        assertEquals(canonical, pack.allocatedBytes() - without);
        assertArrayEquals(codes, weight.codes().toBytes());
        assertArrayEquals(absmax, weight.absmax().toBytes());
        assertArrayEquals(nested, Objects.requireNonNull(weight.nestedAbsmax()).toBytes());
      }
    }
    assertEquals(before, pack.allocatedBytes());
  }

  @Test
  void onlyTheLinearOperatorsTakeAPackedWeight() {
    try (DeviceMemory memory = new DeviceMemory(Packs.reference())) {
      Weight weight = Weights.of(memory, Weights.Kind.PACKED_NF4, new float[16 * 64], 16, 64);
      DeviceTensor output = memory.empty(DType.F32, 16, 64);
      assertThrows(
          IllegalArgumentException.class,
          () -> Quantization4Bit.dequantize(memory.pack(), weight, output));
      assertThrows(
          IllegalArgumentException.class, () -> PackedWeights.bytes(memory.pack(), weight));
      assertThrows(
          IllegalArgumentException.class,
          () -> PackedWeights.bytes(memory.pack(), Weight.dense(output)));
    }
  }
}
