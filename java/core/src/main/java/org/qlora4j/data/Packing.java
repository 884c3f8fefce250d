// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.IntStream;

/**
 * Puts several sequences into one row of bounded length. The sequences of a row stay apart: each
 * has positions of its own and attends to itself only.
 */
final class Packing {
  private Packing() {}

  /**
   * Best-fit decreasing, TRL's {@code bfd}: from the longest sequence to the shortest, each goes
   * into the row whose free space it fills best, or into a new one. It needs at most 11/9 of the
   * fewest rows possible, and a constant (Johnson et al., 1974). Rows are in the order in which
   * they were begun, and of rows with equal space the one begun first is taken.
   *
   * @param lengths of the sequences, each at most {@code capacity}
   * @return the sequences of each row
   */
  static int[][] bestFitDecreasing(int[] lengths, int capacity) {
    List<Integer> order =
        IntStream.range(0, lengths.length)
            .boxed()
            .sorted(Comparator.comparingInt((Integer i) -> lengths[i]).reversed())
            .toList();
    List<List<Integer>> rows = new ArrayList<>();
    // Free space -> rows that have it, the one begun first in front.
    TreeMap<Integer, TreeMap<Integer, List<Integer>>> open = new TreeMap<>();
    for (int sequence : order) {
      int length = lengths[sequence];
      if (length > capacity) {
        throw new IllegalArgumentException(length + " tokens in a row of " + capacity);
      }
      Map.Entry<Integer, TreeMap<Integer, List<Integer>>> best = open.ceilingEntry(length);
      int space = capacity;
      int number = rows.size();
      List<Integer> row;
      if (best == null) {
        row = new ArrayList<>();
        rows.add(row);
      } else {
        space = best.getKey();
        Map.Entry<Integer, List<Integer>> first = best.getValue().pollFirstEntry();
        number = first.getKey();
        row = first.getValue();
        if (best.getValue().isEmpty()) {
          open.remove(space);
        }
      }
      row.add(sequence);
      open.computeIfAbsent(space - length, key -> new TreeMap<>()).put(number, row);
    }
    return rows.stream()
        .map(row -> row.stream().mapToInt(Integer::intValue).toArray())
        .toArray(int[][]::new);
  }
}
