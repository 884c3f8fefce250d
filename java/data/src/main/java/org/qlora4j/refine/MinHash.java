// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.Arrays;
import java.util.SplittableRandom;

/**
 * A text's MinHash signature: {@value #HASHES} bytes, byte i the low 8 bits of the smallest hash i
 * of the text's shingles (runs of {@value #SHINGLE} letters and digits). Two texts whose shingle
 * sets have Jaccard similarity J agree in a byte with probability {@code J + (1 - J)/256}; the
 * estimate's standard deviation is {@code √(J(1-J)/100)}, at most 0.05.
 */
final class MinHash {
  static final int HASHES = 100;
  static final int SHINGLE = 4;

  private static final long[] FACTORS = new long[HASHES];
  private static final long[] OFFSETS = new long[HASHES];

  static {
    SplittableRandom random = new SplittableRandom(0x716c6f7261346aL);
    for (int i = 0; i < HASHES; i++) {
      FACTORS[i] = random.nextLong() | 1;
      OFFSETS[i] = random.nextLong();
    }
  }

  private MinHash() {}

  /** The signature of a text of letters and digits. */
  static byte[] of(String letters) {
    int[] smallest = new int[HASHES];
    Arrays.fill(smallest, -1);
    int shingles = Math.max(1, letters.length() - SHINGLE + 1);
    for (int start = 0; start < shingles; start++) {
      long hash = Hashes.of(letters, start, Math.min(letters.length(), start + SHINGLE));
      for (int i = 0; i < HASHES; i++) {
        int value = (int) ((FACTORS[i] * hash + OFFSETS[i]) >>> 32);
        if (Integer.compareUnsigned(value, smallest[i]) < 0) {
          smallest[i] = value;
        }
      }
    }
    byte[] signature = new byte[HASHES];
    for (int i = 0; i < HASHES; i++) {
      signature[i] = (byte) smallest[i];
    }
    return signature;
  }

  /** The similarity that a number of equal bytes stands for. */
  static double similarity(int equalBytes) {
    return ((double) equalBytes / HASHES - 1.0 / 256) / (1 - 1.0 / 256);
  }
}
