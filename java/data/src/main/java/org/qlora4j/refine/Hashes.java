// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.Arrays;

/** Hashes of texts, and a set of them. */
final class Hashes {
  private static final long FNV_OFFSET = 0xcbf29ce484222325L;
  private static final long FNV_PRIME = 0x100000001b3L;

  private Hashes() {}

  /** 64 bits of a text. */
  static long of(CharSequence text) {
    return of(text, 0, text.length());
  }

  static long of(CharSequence text, int start, int end) {
    long hash = FNV_OFFSET;
    for (int i = start; i < end; i++) {
      hash = (hash ^ text.charAt(i)) * FNV_PRIME;
    }
    return mix(hash);
  }

  /** Murmur3's finalizer: every bit of the result depends on every bit of the argument. */
  static long mix(long hash) {
    long h = hash;
    h = (h ^ h >>> 33) * 0xff51afd7ed558ccdL;
    h = (h ^ h >>> 33) * 0xc4ceb9fe1a85ec53L;
    return h ^ h >>> 33;
  }

  /** A map of hashes to numbers from 0, 12 bytes a slot, at most two thirds full. */
  static final class Numbers {
    private static final int ABSENT = -1;

    private long[] keys = new long[1024];
    private int[] values = new int[1024];
    private int size;

    Numbers() {
      Arrays.fill(values, ABSENT);
    }

    /** The number of a hash, or -1. */
    int get(long hash) {
      return values[slot(keys, values, hash)];
    }

    /** Puts a hash that is not there. */
    void put(long hash, int value) {
      if (size * 3L > keys.length * 2L) {
        grow();
      }
      int slot = slot(keys, values, hash);
      keys[slot] = hash;
      values[slot] = value;
      size++;
    }

    private void grow() {
      long[] moreKeys = new long[keys.length * 2];
      int[] moreValues = new int[keys.length * 2];
      Arrays.fill(moreValues, ABSENT);
      for (int i = 0; i < keys.length; i++) {
        if (values[i] != ABSENT) {
          int slot = slot(moreKeys, moreValues, keys[i]);
          moreKeys[slot] = keys[i];
          moreValues[slot] = values[i];
        }
      }
      keys = moreKeys;
      values = moreValues;
    }

    private static int slot(long[] keys, int[] values, long hash) {
      int mask = keys.length - 1;
      int slot = (int) mix(hash) & mask;
      while (values[slot] != ABSENT && keys[slot] != hash) {
        slot = slot + 1 & mask;
      }
      return slot;
    }
  }
}
