// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.HexFormat;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Blocks against bytes that ggml's Python package made of the same values. */
class BlockEncodingTest {
  private static final String Q8 =
      "3e1d81df3d9af856b41270cd2b89e745a2005ebb1977d53390ee4caa0866c3217fdc"
          + "231d3c96f656b0106fca2984e3439efd5db71777d1318beb4ba50565bf1f7fd93993"
          + "003c7f0102fffd810303000000000000000000000000000000000000000000000000"
          + "082c7f08f818e8778981040404040404040404040404040404040404040404040404"
          + "00000000000000000000000000000000000000000000000000000000000000000000"
          + "00002a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a81";
  private static final String Q4 =
      "332de046acf258bd1379df358be046acf268"
          + "19ad740fb953fd9731eb852fca640ea842fd"
          + "f0cb80888888888f88888888888888888888"
          + "00bc808889878a818f8f8888888888888888"
          + "008088888888888888888888888888888888"
          + "0100bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb0b";

  /** Two ordinary blocks, ties of both types' rounding, zeros, and a scale that is subnormal. */
  private static float[] values() {
    float[] values = new float[192];
    for (int i = 0; i < 64; i++) {
      values[i] = (i * 37 % 101 - 50) * 0.013f;
    }
    float[] ties = {127, 0.5f, 1.5f, -0.5f, -2.5f, -126.5f, 2.5f, 3.4999f};
    System.arraycopy(ties, 0, values, 64, 8);
    float[] ties4 = {8, 0.5f, -0.5f, 1.5f, -1.5f, 7.5f, -7.5f, -8};
    System.arraycopy(ties4, 0, values, 96, 8);
    Arrays.fill(values, 104, 128, 0.25f);
    Arrays.fill(values, 160, 191, 1e-7f);
    values[191] = -3e-7f;
    return values;
  }

  private static String encoded(GgufType type) {
    ByteBuffer out = ByteBuffer.allocate((int) type.bytes(192)).order(ByteOrder.LITTLE_ENDIAN);
    assertTrue(BlockEncoding.encode(values(), 0, 192, type, out));
    assertFalse(out.hasRemaining());
    return HexFormat.of().formatHex(out.array());
  }

  @Test
  void bytesAreGgmls() {
    assertEquals(Q8, encoded(GgufType.Q8_0));
    assertEquals(Q4, encoded(GgufType.Q4_0));
  }

  @ParameterizedTest
  @EnumSource(
      value = GgufType.class,
      names = {"Q8_0", "Q4_0", "F16"})
  void whatATypeCannotHoldIsSaid(GgufType type) {
    for (float bad : new float[] {Float.NaN, Float.POSITIVE_INFINITY, 3e38f}) {
      float[] values = new float[32];
      values[7] = bad;
      ByteBuffer out = ByteBuffer.allocate(1024).order(ByteOrder.LITTLE_ENDIAN);
      boolean lossless = type == GgufType.F16 && !(bad == 3e38f);
      assertEquals(lossless, BlockEncoding.encode(values, 0, 32, type, out), type + " " + bad);
    }
    if (type.isQuantized()) {
      ByteBuffer out = ByteBuffer.allocate(1024);
      assertThrows(
          IllegalArgumentException.class,
          () -> BlockEncoding.encode(new float[31], 0, 31, type, out));
    }
  }
}
