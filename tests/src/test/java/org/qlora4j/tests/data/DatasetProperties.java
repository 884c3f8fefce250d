// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.data;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.constraints.IntRange;
import org.qlora4j.data.Dataset;
import org.qlora4j.data.MicroBatch;
import org.qlora4j.data.SampleOrder;
import org.qlora4j.data.TokenizedExample;

/** What holds of packing and of every order, whatever the lengths. */
final class DatasetProperties {
  private static final int CAPACITY = 64;

  @Provide
  Arbitrary<int[]> lengths() {
    return Arbitraries.integers()
        .between(1, CAPACITY)
        .array(int[].class)
        .ofMinSize(1)
        .ofMaxSize(80);
  }

  /** Example i is [i, i, ...]. */
  private static Dataset dataset(int[] lengths) {
    List<TokenizedExample> examples = new ArrayList<>();
    for (int i = 0; i < lengths.length; i++) {
      int[] ids = new int[lengths[i]];
      Arrays.fill(ids, i);
      examples.add(new TokenizedExample(ids, ids.clone()));
    }
    return new Dataset(examples);
  }

  /** Marks the examples of a batch, whole and none twice. */
  private static void visit(MicroBatch batch, int[] lengths, BitSet seen) {
    for (int s = 0; s + 1 < batch.cuSeqlens().length; s++) {
      int from = batch.cuSeqlens()[s];
      int example = batch.ids()[from];
      assertEquals(lengths[example], batch.cuSeqlens()[s + 1] - from);
      assertTrue(!seen.get(example), "example " + example + " is visited twice");
      seen.set(example);
    }
  }

  /**
   * Rows hold every example once and no more than they may. No two rows would fit into one, for
   * then the first sequence of the later row would have gone into the earlier.
   */
  @Property(tries = 300, seed = "20261127")
  void packingLosesNothingAndNoTwoRowsFitIntoOne(@ForAll("lengths") int[] lengths) {
    Dataset packed = dataset(lengths).packed(CAPACITY);
    BitSet seen = new BitSet();
    List<Integer> filled = new ArrayList<>();
    for (MicroBatch row : packed.inOrder(1)) {
      assertTrue(row.tokens() <= CAPACITY, "a row of " + row.tokens());
      visit(row, lengths, seen);
      filled.add(row.tokens());
    }
    assertEquals(lengths.length, seen.cardinality());
    assertEquals(packed.rows(), filled.size());
    for (int i = 0; i < filled.size(); i++) {
      for (int j = 0; j < i; j++) {
        assertTrue(filled.get(i) + filled.get(j) > CAPACITY, filled + " in rows of " + CAPACITY);
      }
    }
  }

  @Property(tries = 200, seed = "20261127")
  void anEpochVisitsEveryExampleOnceInEveryOrder(
      @ForAll("lengths") int[] lengths,
      @ForAll @IntRange(min = 1, max = 5) int microBatch,
      @ForAll @IntRange(min = 1, max = 4) int accumulation,
      @ForAll SampleOrder order,
      @ForAll boolean packing,
      @ForAll long seed) {
    Dataset dataset = packing ? dataset(lengths).packed(CAPACITY) : dataset(lengths);
    Dataset.Plan plan = dataset.plan(microBatch, accumulation, order, seed);
    for (int epoch = 0; epoch < 2; epoch++) {
      BitSet seen = new BitSet();
      for (int step = 0; step < plan.stepsPerEpoch(); step++) {
        int number = epoch * plan.stepsPerEpoch() + step;
        List<MicroBatch> batches = plan.step(number);
        assertTrue(!batches.isEmpty() && batches.size() <= accumulation);
        batches.forEach(batch -> visit(batch, lengths, seen));
        MicroBatch resumed =
            dataset.plan(microBatch, accumulation, order, seed).step(number).get(0);
        assertTrue(
            Arrays.equals(batches.get(0).ids(), resumed.ids()), "a run resumed at " + number);
      }
      assertEquals(lengths.length, seen.cardinality());
    }
  }
}
