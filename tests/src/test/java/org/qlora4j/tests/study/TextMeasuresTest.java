// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.study;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.qlora4j.study.generation.TextMeasures;
import org.qlora4j.study.generation.TextMeasures.CopyFinder;

class TextMeasuresTest {
  @Test
  void wordsAndCharacters() {
    assertEquals(List.of("빵이", "정말", "맛있어요."), TextMeasures.words("  빵이 정말\n맛있어요. "));
    assertEquals(List.of(), TextMeasures.words(" \n"));
    assertEquals(5, TextMeasures.characters(" 빵이 👍🏻 "), "an emoji with a skin tone has two");
    assertEquals(0, TextMeasures.characters(""));
  }

  @Test
  void distinctRuns() {
    // a b, b a, a b; a c: three different of four.
    assertEquals(0.75, TextMeasures.distinct(List.of("a b a b", "a c"), 2));
    assertEquals(3.0 / 6, TextMeasures.distinct(List.of("a b a b", "a c"), 1));
    assertTrue(Double.isNaN(TextMeasures.distinct(List.of("a", ""), 2)));
  }

  @Test
  void repeatedRuns() {
    assertEquals(0, TextMeasures.repetition("a b c d", 3));
    // a b c, b c a, c a b, a b c: one of four was there before.
    assertEquals(0.25, TextMeasures.repetition("a b c a b c", 3));
    assertEquals(0, TextMeasures.repetition("a b", 3));
  }

  @Test
  void longestCopiedRun() {
    CopyFinder finder = new CopyFinder(List.of("a b c d", "c d e f g"));
    assertEquals(4, finder.longest("x a b c d e"), "runs do not cross from one text to the next");
    assertEquals(5, finder.longest("c d e f g"));
    assertEquals(1, finder.longest("g x y"));
    assertEquals(0, finder.longest("x y"));
    assertEquals(0, finder.longest(""));
  }

  @Test
  void longestCopiedRunAsByTryingAll() {
    Random random = new Random(20261127);
    List<String> sources = new ArrayList<>();
    for (int i = 0; i < 20; i++) {
      sources.add(words(random, 30));
    }
    CopyFinder finder = new CopyFinder(sources);
    for (int i = 0; i < 200; i++) {
      String text = words(random, 12);
      List<String> words = TextMeasures.words(text);
      int longest = 0;
      for (int from = 0; from < words.size(); from++) {
        for (int to = from + 1; to <= words.size(); to++) {
          String run = " " + String.join(" ", words.subList(from, to)) + " ";
          if (sources.stream().anyMatch(s -> (" " + s + " ").contains(run))) {
            longest = Math.max(longest, to - from);
          }
        }
      }
      assertEquals(longest, finder.longest(text), text);
    }
  }

  private static String words(Random random, int count) {
    List<String> words = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      words.add(String.valueOf((char) ('a' + random.nextInt(6))));
    }
    return String.join(" ", words);
  }
}
