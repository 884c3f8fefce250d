// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import java.util.Arrays;
import java.util.Comparator;
import java.util.Random;

/** In which order an epoch visits the rows of a dataset. */
public enum SampleOrder {
  /** As they stand in the files. */
  SEQUENTIAL,
  /** A permutation of its own for every epoch. */
  SHUFFLED,
  /**
   * Rows of about one length together, by the rule of Hugging Face's length-grouped sampler: the
   * shuffled rows are cut into megabatches of up to 50 batches, each is sorted from long to short,
   * and the longest row of all comes first, so that memory runs out at once or not at all.
   */
  LENGTH_GROUPED;

  /** Most batches of a megabatch; with fewer than four megabatches they are smaller. */
  private static final int MOST_BATCHES = 50;

  private static final int LEAST_MEGABATCHES = 4;

  /**
   * The rows of one epoch; depends on nothing but the arguments.
   *
   * @param lengths tokens of each row
   * @param batch rows of one optimizer step
   */
  int[] of(int[] lengths, long batch, long seed, int epoch) {
    int rows = lengths.length;
    return switch (this) {
      case SEQUENTIAL -> identity(rows);
      case SHUFFLED -> permutation(rows, seed, epoch);
      case LENGTH_GROUPED -> grouped(permutation(rows, seed, epoch), lengths, batch);
    };
  }

  /** The rule of {@link #LENGTH_GROUPED} on a permutation. */
  static int[] grouped(int[] permutation, int[] lengths, long batch) {
    int rows = permutation.length;
    long batches = Math.min(rows / (batch * LEAST_MEGABATCHES), MOST_BATCHES);
    long size = Math.max(1, batches) * batch;
    Integer[] order = Arrays.stream(permutation).boxed().toArray(Integer[]::new);
    int longest = 0;
    for (long start = 0; start < rows; start += size) {
      int from = (int) start;
      // Stable, as the sampler's own sort is.
      Arrays.sort(
          order,
          from,
          (int) Math.min(rows, start + size),
          Comparator.comparingInt((Integer row) -> lengths[row]).reversed());
      if (lengths[order[from]] > lengths[order[longest]]) {
        longest = from;
      }
    }
    if (rows > 0) {
      Integer first = order[0];
      order[0] = order[longest];
      order[longest] = first;
    }
    return Arrays.stream(order).mapToInt(Integer::intValue).toArray();
  }

  static int[] identity(int size) {
    int[] order = new int[size];
    for (int i = 0; i < size; i++) {
      order[i] = i;
    }
    return order;
  }

  /**
   * A permutation that depends on the size, the seed and the epoch only (Fisher-Yates with
   * java.util.Random, whose numbers its specification fixes). The epoch -1 is the split.
   */
  static int[] permutation(int size, long seed, int epoch) {
    Random random = new Random(seed * 0x9E3779B97F4A7C15L + epoch);
    int[] order = identity(size);
    for (int i = size - 1; i > 0; i--) {
      int j = random.nextInt(i + 1);
      int other = order[j];
      order[j] = order[i];
      order[i] = other;
    }
    return order;
  }
}
