// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

/**
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), written from the paper, to check the masks of
 * the kernels.
 */
public final class Philox {
  private Philox() {}

  /** The four output words for a counter of four words and a key of two. */
  public static int[] words(int c0, int c1, int c2, int c3, int k0, int k1) {
    for (int round = 0; round < 10; round++) {
      long p0 = 0xD2511F53L * Integer.toUnsignedLong(c0);
      long p1 = 0xCD9E8D57L * Integer.toUnsignedLong(c2);
      int n0 = (int) (p1 >>> 32) ^ c1 ^ k0;
      int n2 = (int) (p0 >>> 32) ^ c3 ^ k1;
      c1 = (int) p1;
      c3 = (int) p0;
      c0 = n0;
      c2 = n2;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    return new int[] {c0, c1, c2, c3};
  }

  /** Whether dropout keeps an element: word 0 is at least {@code round(probability * 2^32)}. */
  public static boolean keeps(
      float probability, long seed, int step, int microBatch, int linear, long index) {
    long threshold = Math.round((double) probability * 0x1p32);
    int word = words(step, microBatch, linear, (int) index, (int) seed, (int) (seed >>> 32))[0];
    return Integer.toUnsignedLong(word) >= threshold;
  }
}
