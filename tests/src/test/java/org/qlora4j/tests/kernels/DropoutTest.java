// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.Weight;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.Philox;

/** The dropout mask of every pack is the one the ABI describes, element by element. */
class DropoutTest {
  private static final int K = 40;

  /** Known answers published with the generator (Random123, kat_vectors). */
  @Test
  void philoxGivesTheKnownAnswers() {
    assertArrayEquals(
        new int[] {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}, Philox.words(0, 0, 0, 0, 0, 0));
    assertArrayEquals(
        new int[] {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        Philox.words(-1, -1, -1, -1, -1, -1));
    assertArrayEquals(
        new int[] {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
        Philox.words(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0));
  }

  @TestFactory
  Stream<DynamicTest> maskOfEveryPack() {
    Dropout[] masks = {
      new Dropout(0.5f, 1, 0, 0, 0, 0),
      new Dropout(0.1f, 0x8000_0001_7fff_ffffL, 7, 3, 223, 0),
      new Dropout(0.9f, -1, -1, -1, -1, 1000),
      // Row times columns passes 2^32: the counter's last word wraps.
      new Dropout(0.3f, 42, 1, 2, 3, (1L << 32) / K - 2),
    };
    return Packs.names(true).stream()
        .flatMap(
            name ->
                Stream.of(masks)
                    .map(
                        mask ->
                            DynamicTest.dynamicTest(name + " " + mask, () -> check(name, mask))));
  }

  /**
   * With x = 1 and A = identity the branch's inner result is the mask itself, times 1 / (1 - p).
   */
  private static void check(String name, Dropout dropout) {
    KernelPack pack = Packs.open(name);
    Assumptions.assumeTrue(
        pack.supports("linear_forward"), () -> name + " leaves linear_forward out");
    int m = 5;
    try (DeviceMemory memory = new DeviceMemory(pack)) {
      float[] identity = new float[K * K];
      float[] ones = new float[m * K];
      for (int i = 0; i < K; i++) {
        identity[i * K + i] = 1;
      }
      java.util.Arrays.fill(ones, 1);
      DeviceTensor a = memory.of(DType.F32, identity, K, K);
      LoraTerm term = new LoraTerm(K, 1, LoraCompute.F32, a, a, dropout);
      DeviceTensor xa = memory.empty(DType.F32, m, K);
      DeviceTensor y = memory.empty(DType.F32, m, K);
      Weight zero = Weight.dense(memory.zeros(DType.F32, K, K));
      Linear.forward(pack, memory.of(DType.F32, ones, m, K), zero, term, null, null, y, xa);
      float[] mask = xa.toFloats();
      float scale = 1 / (1 - dropout.probability());
      int kept = 0;
      for (int row = 0; row < m; row++) {
        for (int column = 0; column < K; column++) {
          long index = (dropout.rowOffset() + row) * K + column;
          boolean keeps =
              Philox.keeps(
                  dropout.probability(),
                  dropout.seed(),
                  dropout.step(),
                  dropout.microBatch(),
                  dropout.linear(),
                  index);
          // One rounding of the scale, one of the product.
          assertEquals(
              keeps ? scale : 0,
              mask[row * K + column],
              scale * 0x1p-22f,
              "row " + row + " column " + column);
          kept += keeps ? 1 : 0;
        }
      }
      // Six standard deviations of a binomial count: the mask is neither empty nor full.
      double expected = m * K * (1 - (double) dropout.probability());
      double deviation = Math.sqrt(expected * dropout.probability());
      assertEquals(expected, kept, 6 * deviation);
      memory.checkGuards();
    }
  }
}
