// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.data.Dataset;
import org.qlora4j.data.MicroBatch;
import org.qlora4j.data.SampleOrder;
import org.qlora4j.data.TokenizedExample;

/** Order, split and batches. */
class DatasetTest {

  /**
   * Example number i is [10 i, 10 i + 1, ...] of length 2 + i % 3; its first token is not learned.
   */
  private static Dataset numbered(int size) {
    List<TokenizedExample> examples = new ArrayList<>();
    for (int i = 0; i < size; i++) {
      int[] ids = new int[2 + i % 3];
      for (int t = 0; t < ids.length; t++) {
        ids[t] = 10 * i + t;
      }
      int[] labels = ids.clone();
      labels[0] = TokenizedExample.IGNORED;
      examples.add(new TokenizedExample(ids, labels));
    }
    return new Dataset(examples);
  }

  private static List<Integer> numbers(List<MicroBatch> batches) {
    List<Integer> numbers = new ArrayList<>();
    for (MicroBatch batch : batches) {
      for (int s = 0; s + 1 < batch.cuSeqlens().length; s++) {
        numbers.add(batch.ids()[batch.cuSeqlens()[s]] / 10);
      }
    }
    return numbers;
  }

  @Test
  void aBatchPutsSequencesSideBySide() {
    MicroBatch batch = numbered(3).inOrder(3).iterator().next();
    assertArrayEquals(new int[] {0, 1, 10, 11, 12, 20, 21, 22, 23}, batch.ids());
    assertArrayEquals(
        new int[] {1, -100, 11, 12, -100, 21, 22, 23, -100},
        batch.labels(),
        "each where it is predicted");
    assertArrayEquals(new int[] {0, 1, 0, 1, 2, 0, 1, 2, 3}, batch.positions());
    assertArrayEquals(new int[] {0, 2, 5, 9}, batch.cuSeqlens());
    assertEquals(6, batch.labelTokens());
    assertEquals(numbered(3).labelTokens(), batch.labelTokens());
  }

  @ParameterizedTest
  @CsvSource({"10,1,1,10", "10,3,1,4", "10,2,2,3", "1,8,4,1", "8,2,2,2", "9,2,2,3"})
  void anEpochVisitsEveryExampleOnce(int size, int microBatch, int accumulation, int steps) {
    Dataset.Plan plan = numbered(size).plan(microBatch, accumulation, SampleOrder.SHUFFLED, 7);
    assertEquals(steps, plan.stepsPerEpoch());
    List<List<Integer>> epochs = new ArrayList<>();
    for (int epoch = 0; epoch < 2; epoch++) {
      List<Integer> seen = new ArrayList<>();
      for (int step = 0; step < steps; step++) {
        List<MicroBatch> batches = plan.step(epoch * steps + step);
        assertTrue(!batches.isEmpty() && batches.size() <= accumulation);
        seen.addAll(numbers(batches));
      }
      assertEquals(size, seen.size());
      assertEquals(size, new HashSet<>(seen).size());
      epochs.add(seen);
    }
    if (size > 5) {
      assertNotEquals(epochs.get(0), epochs.get(1), "every epoch has an order of its own");
    }
  }

  @Test
  void aStepDependsOnItsNumberOnly() {
    Dataset.Plan through = numbered(23).plan(2, 3, SampleOrder.SHUFFLED, 11);
    List<List<Integer>> steps = new ArrayList<>();
    for (int step = 0; step < 12; step++) {
      steps.add(numbers(through.step(step)));
    }
    for (int step = 11; step >= 0; step -= 3) {
      assertEquals(
          steps.get(step),
          numbers(numbered(23).plan(2, 3, SampleOrder.SHUFFLED, 11).step(step)),
          "a run resumed at " + step);
    }
    assertNotEquals(
        steps.get(0),
        numbers(numbered(23).plan(2, 3, SampleOrder.SHUFFLED, 12).step(0)),
        "another seed");
    assertEquals(
        List.of(0, 1, 2, 3, 4, 5),
        numbers(numbered(23).plan(2, 3, SampleOrder.SEQUENTIAL, 11).step(0)),
        "without shuffling");
  }

  /** The order is part of what a resumed run relies on, across versions of Java too. */
  @Test
  void theOrderIsFixed() {
    assertEquals(
        numbers(numbered(8).plan(8, 1, SampleOrder.SHUFFLED, 42).step(0)),
        numbers(numbered(8).plan(1, 8, SampleOrder.SHUFFLED, 42).step(0)));
    assertEquals(
        ORDER_OF_8_SEED_42, numbers(numbered(8).plan(8, 1, SampleOrder.SHUFFLED, 42).step(0)));
  }

  private static final List<Integer> ORDER_OF_8_SEED_42 = List.of(4, 1, 6, 7, 5, 0, 2, 3);

  @Test
  void theSplitIsOfTheSeedAndCoversAll() {
    Dataset all = numbered(40);
    Dataset.Split split = all.split(0.1, true, 3);
    assertEquals(4, split.eval().size());
    assertEquals(36, split.train().size());
    Set<Integer> seen = new HashSet<>();
    for (Dataset part : List.of(split.train(), split.eval())) {
      for (int i = 0; i < part.size(); i++) {
        assertTrue(seen.add(part.get(i).ids()[0]));
      }
    }
    assertEquals(40, seen.size());
    assertEquals(split.eval().fingerprint(), all.split(0.1, true, 3).eval().fingerprint());
    assertNotEquals(split.eval().fingerprint(), all.split(0.1, true, 4).eval().fingerprint());
    Dataset tail = all.split(3, false, 3).eval();
    assertEquals(370, tail.get(0).ids()[0]);
    assertEquals(3, tail.size());
    assertEquals(1, all.split(0.001, true, 3).eval().size(), "a share holds out at least one");
    assertEquals(0, all.split(0, true, 3).eval().size());
    assertRefused(() -> all.split(40, true, 3), "val_set_size", "40");
  }

  @Test
  void fingerprintsTellDatasetsApart() {
    Dataset all = numbered(5);
    assertEquals(all.fingerprint(), numbered(5).fingerprint());
    assertNotEquals(all.fingerprint(), numbered(4).fingerprint());
    TokenizedExample onInputs = new TokenizedExample(new int[] {0, 1}, new int[] {0, 1});
    TokenizedExample not = new TokenizedExample(new int[] {0, 1}, new int[] {-100, 1});
    assertNotEquals(
        new Dataset(List.of(onInputs)).fingerprint(), new Dataset(List.of(not)).fingerprint());
    assertEquals(
        numbered(7).fingerprint(),
        numbered(7)
            .split(3, false, 0)
            .train()
            .plus(numbered(7).split(3, false, 0).eval())
            .fingerprint());
  }

  @Test
  void tokensOfAnotherModelAreRefused() {
    numbered(3).checkVocabulary(24);
    assertRefused(() -> numbered(3).checkVocabulary(23), "token 23", "vocab_size 23");
    assertRefused(() -> new Dataset(List.of()).plan(1, 1, SampleOrder.SHUFFLED, 0), "no examples");
  }

  private static Dataset ofLengths(int... lengths) {
    List<TokenizedExample> examples = new ArrayList<>();
    for (int length : lengths) {
      examples.add(new TokenizedExample(new int[length], new int[length]));
    }
    return new Dataset(examples);
  }

  private static List<Integer> lengths(MicroBatch batch) {
    List<Integer> lengths = new ArrayList<>();
    for (int s = 0; s + 1 < batch.cuSeqlens().length; s++) {
      lengths.add(batch.cuSeqlens()[s + 1] - batch.cuSeqlens()[s]);
    }
    return lengths;
  }

  /** Worked by hand: 7, 5 | 6, 4, 2 | 4, 3, 3, 2 fill rows of 12 as well as can be. */
  @Test
  void packingIsBestFitDecreasing() {
    Dataset packed = ofLengths(4, 7, 2, 3, 6, 5, 2, 4, 3).packed(12);
    List<List<Integer>> rows = new ArrayList<>();
    packed.inOrder(1).forEach(row -> rows.add(lengths(row)));
    assertEquals(List.of(List.of(7, 5), List.of(6, 4, 2), List.of(4, 3, 3, 2)), rows);
    assertEquals(3, packed.rows());
    assertEquals(9, packed.size());
    assertEquals(24, packed.longest(2));
    // The fuller of two rows that have room takes it: 3 goes beside 6 (free 4), not 5 (free 5).
    packed = ofLengths(6, 5, 3).packed(10);
    assertEquals(List.of(6, 3), lengths(packed.inOrder(1).iterator().next()));
  }

  @Test
  void packedRowsKeepTheirSequencesApart() {
    MicroBatch row = numbered(3).packed(9).inOrder(1).iterator().next();
    assertArrayEquals(new int[] {20, 21, 22, 23, 10, 11, 12, 0, 1}, row.ids());
    assertArrayEquals(new int[] {0, 1, 2, 3, 0, 1, 2, 0, 1}, row.positions());
    assertArrayEquals(new int[] {0, 4, 7, 9}, row.cuSeqlens());
    assertArrayEquals(new int[] {21, 22, 23, -100, 11, 12, -100, 1, -100}, row.labels());
  }

  @Test
  void packedRowsAreWhatAStepCounts() {
    Dataset packed = numbered(50).packed(10);
    Dataset.Plan plan = packed.plan(2, 3, SampleOrder.SHUFFLED, 5);
    assertEquals((packed.rows() + 5) / 6, plan.stepsPerEpoch());
    Set<Integer> seen = new HashSet<>();
    for (int step = 0; step < plan.stepsPerEpoch(); step++) {
      List<MicroBatch> batches = plan.step(step);
      batches.forEach(batch -> assertTrue(batch.tokens() <= 20, "two rows of ten"));
      numbers(batches).forEach(number -> assertTrue(seen.add(number)));
    }
    assertEquals(50, seen.size());
  }

  /**
   * The rule of Hugging Face's sampler: megabatches of min(n / (4 batch), 50) batches of the
   * permutation, each from long to short, then the longest of all first.
   */
  @Test
  void lengthGroupsFollowTheSamplersRule() {
    int size = 403;
    int batch = 4;
    int[] lengths = new Random(9).ints(size, 2, 60).toArray();
    int[] order = grouped(ofLengths(lengths), lengths, batch);
    assertEquals(60 - 1, lengths[order[0]], "the longest first");
    int mega = 25 * batch;
    int falling = 0;
    for (int i = 1; i < size; i++) {
      if (i % mega != 0 && lengths[order[i]] <= lengths[order[i - 1]]) {
        falling++;
      }
    }
    // All neighbours inside of the five megabatches, but for the two that the swap touched.
    assertTrue(falling >= size - 5 - 2, "falling: " + falling);
    assertEquals(size, Arrays.stream(order).distinct().count());
  }

  /** The lengths are all different, so that they tell which example a sequence is. */
  @Test
  void lengthGroupsOfAKnownPermutation() {
    // The shuffled order of 8 with this seed is 4, 1, 6, 7, 5, 0, 2, 3. One step has 1 row: 2 rows
    // a megabatch. Lengths are 10 + the number: (4 1)(7 6)(5 0)(3 2), and 7, the longest, is
    // exchanged with the first.
    Dataset dataset = ofLengths(10, 11, 12, 13, 14, 15, 16, 17);
    Dataset.Plan plan = dataset.plan(1, 1, SampleOrder.LENGTH_GROUPED, 42);
    List<Integer> order = new ArrayList<>();
    for (int step = 0; step < 8; step++) {
      plan.step(step).forEach(b -> order.add(b.tokens() - 10));
    }
    assertEquals(List.of(7, 1, 4, 6, 5, 0, 3, 2), order);
    assertEquals(
        List.of(13),
        lengths(dataset.plan(1, 1, SampleOrder.LENGTH_GROUPED, 42).step(6).get(0)),
        "a run resumed at 6");
  }

  /** Row numbers of one epoch, told by marking each example with its number. */
  private static int[] grouped(Dataset dataset, int[] lengths, int batch) {
    List<TokenizedExample> marked = new ArrayList<>();
    for (int i = 0; i < dataset.size(); i++) {
      int[] ids = new int[lengths[i]];
      ids[0] = i;
      marked.add(new TokenizedExample(ids, new int[lengths[i]]));
    }
    Dataset.Plan plan = new Dataset(marked).plan(batch, 1, SampleOrder.LENGTH_GROUPED, 42);
    List<Integer> order = new ArrayList<>();
    for (int step = 0; step < plan.stepsPerEpoch(); step++) {
      for (MicroBatch b : plan.step(step)) {
        for (int s = 0; s + 1 < b.cuSeqlens().length; s++) {
          order.add(b.ids()[b.cuSeqlens()[s]]);
        }
      }
    }
    return order.stream().mapToInt(Integer::intValue).toArray();
  }
}
