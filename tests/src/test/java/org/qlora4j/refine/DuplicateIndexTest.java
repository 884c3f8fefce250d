// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.HashSet;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;

final class DuplicateIndexTest {
  private static final double THRESHOLD = 0.7;

  private static String text(Random random, int length) {
    StringBuilder text = new StringBuilder();
    for (int i = 0; i < length; i++) {
      text.append((char) ('가' + random.nextInt(2000)));
    }
    return text.toString();
  }

  private static double jaccard(String a, String b) {
    Set<String> first = shingles(a);
    Set<String> second = shingles(b);
    Set<String> common = new HashSet<>(first);
    common.retainAll(second);
    return (double) common.size() / (first.size() + second.size() - common.size());
  }

  private static Set<String> shingles(String text) {
    Set<String> shingles = new HashSet<>();
    for (int i = 0; i + MinHash.SHINGLE <= text.length(); i++) {
      shingles.add(text.substring(i, i + MinHash.SHINGLE));
    }
    return shingles;
  }

  /** A text of which a share of the characters is another. */
  private static String changed(String text, double share, Random random) {
    StringBuilder out = new StringBuilder(text);
    for (int i = 0; i < text.length(); i++) {
      if (random.nextDouble() < share) {
        out.setCharAt(i, (char) ('가' + random.nextInt(2000)));
      }
    }
    return out.toString();
  }

  /**
   * Of pairs with similarity at least 0.8 (two standard deviations above the threshold) at least
   * 97% are found; of pairs below 0.55 (three below) at most 0.5% are.
   */
  @Test
  void findsNearDuplicatesAndLittleElse() {
    Random random = new Random(5);
    DuplicateIndex index = new DuplicateIndex(THRESHOLD);
    int texts = 3000;
    String[] originals = new String[texts];
    for (int i = 0; i < texts; i++) {
      originals[i] = text(random, 120 + random.nextInt(60));
      index.add(Hashes.of(originals[i]), MinHash.of(originals[i]));
    }
    int similar = 0;
    int found = 0;
    int different = 0;
    int wrong = 0;
    for (int i = 0; i < texts; i++) {
      String other = changed(originals[i], random.nextDouble() * 0.2, random);
      double similarity = jaccard(originals[i], other);
      int near = index.findNear(MinHash.of(other));
      assertTrue(near == -1 || near == i, "another text was taken for the original");
      if (similarity >= 0.8) {
        similar++;
        found += near == i ? 1 : 0;
      } else if (similarity < 0.55) {
        different++;
        wrong += near == i ? 1 : 0;
      }
    }
    assertTrue(similar > 300 && different > 500, similar + " and " + different);
    System.out.printf(
        "near duplicates: found %d of %d at 0.8 and above, %d of %d below 0.55%n",
        found, similar, wrong, different);
    assertTrue(found >= 0.97 * similar, found + " of " + similar);
    assertTrue(wrong <= 0.005 * different, wrong + " of " + different);
  }

  @Test
  void estimatesSimilarity() {
    Random random = new Random(6);
    double worst = 0;
    for (int i = 0; i < 300; i++) {
      String a = text(random, 200);
      String b = changed(a, random.nextDouble() * 0.15, random);
      byte[] first = MinHash.of(a);
      byte[] second = MinHash.of(b);
      int equal = 0;
      for (int k = 0; k < MinHash.HASHES; k++) {
        equal += first[k] == second[k] ? 1 : 0;
      }
      worst = Math.max(worst, Math.abs(MinHash.similarity(equal) - jaccard(a, b)));
    }
    // Standard deviation at most 0.05; of 300 draws the largest is some 3 of them, 4.5 happen once
    // in 500 runs.
    assertTrue(worst < 0.225, "worst error " + worst);
  }

  @Test
  void findsEqualTextsAfterGrowing() {
    Random random = new Random(7);
    DuplicateIndex index = new DuplicateIndex(THRESHOLD);
    String[] texts = new String[20_000];
    for (int i = 0; i < texts.length; i++) {
      texts[i] = text(random, 30);
      assertEquals(-1, index.findExact(Hashes.of(texts[i])));
      index.add(Hashes.of(texts[i]), MinHash.of(texts[i]));
    }
    for (int i = 0; i < texts.length; i += 97) {
      assertEquals(i, index.findExact(Hashes.of(texts[i])));
      assertEquals(i, index.findNear(MinHash.of(texts[i])));
    }
  }

  @Test
  void manyAlikeStayFast() {
    DuplicateIndex index = new DuplicateIndex(1);
    String base = "같은 글이 여러 번 올라와요".replace(" ", "");
    long begun = System.nanoTime();
    for (int i = 0; i < 50_000; i++) {
      index.add(i, MinHash.of(base));
    }
    assertEquals(0, index.findNear(MinHash.of(base)));
    assertTrue(System.nanoTime() - begun < 20e9);
  }
}
