// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Texts that were kept, to find what a new one repeats: equal letters by a 64-bit hash, near
 * duplicates by MinHash with banding. A text is a candidate where all {@value #ROWS} bytes of one
 * of {@value #BANDS} bands agree, and a near duplicate where its whole signature says so. At
 * similarity 0.7 a duplicate becomes a candidate with probability 0.975, at 0.8 with 0.9996.
 *
 * <p>Memory: 100 bytes of signature, 80 to 240 bytes of band tables and up to 36 of hashes for each
 * text that is kept. Not thread-safe: the order in which texts come decides which of two stays.
 */
final class DuplicateIndex {
  static final int BANDS = 20;
  static final int ROWS = MinHash.HASHES / BANDS;

  private static final int NONE = -1;
  private static final int CHUNK = 1 << 14;

  /** Texts with one band in common that are kept in the band's table; more say nothing new. */
  private static final int MOST_ALIKE = 32;

  private final double threshold;
  private final Hashes.Numbers exact = new Hashes.Numbers();
  private final List<byte[]> signatures = new ArrayList<>();

  /** For each band an open-addressed table of text numbers. */
  private final int[][] tables = new int[BANDS][1024];

  private final int[] used = new int[BANDS];
  private int size;

  /**
   * @param threshold smallest similarity of near duplicates; above 1 to look for none
   */
  DuplicateIndex(double threshold) {
    this.threshold = threshold;
    for (int[] table : tables) {
      Arrays.fill(table, NONE);
    }
  }

  /** The text with the same letters, or -1. */
  int findExact(long hash) {
    return exact.get(hash);
  }

  /** The most similar text that is a near duplicate, the earliest of them, or -1. */
  int findNear(byte[] signature) {
    if (threshold > 1) {
      return NONE;
    }
    int best = NONE;
    int bestEqual = 0;
    for (int band = 0; band < BANDS; band++) {
      int[] table = tables[band];
      int mask = table.length - 1;
      for (int slot = slot(signature, 0, band, mask); table[slot] != NONE; slot = slot + 1 & mask) {
        int text = table[slot];
        if (text == best || !sameBand(text, signature, band)) {
          continue;
        }
        int equal = equalBytes(text, signature);
        if (equal > bestEqual || (equal == bestEqual && text < best)) {
          bestEqual = equal;
          best = text;
        }
      }
    }
    return best != NONE && MinHash.similarity(bestEqual) >= threshold ? best : NONE;
  }

  /** Keeps a text; its number is the count of texts before it. */
  void add(long hash, byte[] signature) {
    int text = size++;
    exact.put(hash, text);
    if (threshold > 1) {
      return;
    }
    if (text % CHUNK == 0) {
      signatures.add(new byte[CHUNK * MinHash.HASHES]);
    }
    System.arraycopy(
        signature, 0, signatures.get(text / CHUNK), text % CHUNK * MinHash.HASHES, MinHash.HASHES);
    for (int band = 0; band < BANDS; band++) {
      if (used[band] * 3L > tables[band].length * 2L) {
        grow(band);
      }
      int[] table = tables[band];
      int mask = table.length - 1;
      int slot = slot(signature, 0, band, mask);
      int alike = 0;
      while (table[slot] != NONE && alike < MOST_ALIKE) {
        alike += sameBand(table[slot], signature, band) ? 1 : 0;
        slot = slot + 1 & mask;
      }
      if (alike < MOST_ALIKE) {
        table[slot] = text;
        used[band]++;
      }
    }
  }

  int size() {
    return size;
  }

  private void grow(int band) {
    int[] old = tables[band];
    int[] more = new int[old.length * 2];
    Arrays.fill(more, NONE);
    int mask = more.length - 1;
    for (int text : old) {
      if (text != NONE) {
        int slot = slot(signatures.get(text / CHUNK), text % CHUNK * MinHash.HASHES, band, mask);
        while (more[slot] != NONE) {
          slot = slot + 1 & mask;
        }
        more[slot] = text;
      }
    }
    tables[band] = more;
  }

  private static int slot(byte[] bytes, int signature, int band, int mask) {
    long key = band;
    for (int i = 0; i < ROWS; i++) {
      key = (key << 8) | (bytes[signature + band * ROWS + i] & 0xff);
    }
    return (int) Hashes.mix(key) & mask;
  }

  private boolean sameBand(int text, byte[] signature, int band) {
    byte[] chunk = signatures.get(text / CHUNK);
    int start = text % CHUNK * MinHash.HASHES + band * ROWS;
    return Arrays.equals(chunk, start, start + ROWS, signature, band * ROWS, band * ROWS + ROWS);
  }

  private int equalBytes(int text, byte[] signature) {
    byte[] chunk = signatures.get(text / CHUNK);
    int start = text % CHUNK * MinHash.HASHES;
    int equal = 0;
    for (int i = 0; i < MinHash.HASHES; i++) {
      equal += chunk[start + i] == signature[i] ? 1 : 0;
    }
    return equal;
  }
}
