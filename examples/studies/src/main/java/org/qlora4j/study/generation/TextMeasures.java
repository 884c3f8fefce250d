// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.generation;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Figures of texts. A word is what stands between spaces. */
public final class TextMeasures {
  private TextMeasures() {}

  /** The words of a text. */
  public static List<String> words(String text) {
    String stripped = text.strip();
    return stripped.isEmpty() ? List.of() : List.of(stripped.split("\\s+", -1));
  }

  /** Characters, as a reader counts them: code points without the space around the text. */
  public static int characters(String text) {
    String stripped = text.strip();
    return stripped.codePointCount(0, stripped.length());
  }

  /**
   * Different runs of n words among all runs of n words in all texts (Li et al. 2016,
   * "distinct-n"); NaN where no text has n words.
   */
  public static double distinct(List<String> texts, int n) {
    Set<List<String>> different = new HashSet<>();
    long all = 0;
    for (String text : texts) {
      for (List<String> run : runs(words(text), n)) {
        different.add(run);
        all++;
      }
    }
    return all == 0 ? Double.NaN : (double) different.size() / all;
  }

  /** Share of a text's runs of n words that the same text had before; 0 for a shorter text. */
  public static double repetition(String text, int n) {
    List<List<String>> runs = runs(words(text), n);
    return runs.isEmpty() ? 0 : 1 - (double) new HashSet<>(runs).size() / runs.size();
  }

  private static List<List<String>> runs(List<String> words, int n) {
    List<List<String>> runs = new ArrayList<>();
    for (int i = 0; i + n <= words.size(); i++) {
      runs.add(words.subList(i, i + n));
    }
    return runs;
  }

  /** Finds the longest run of consecutive words that a text shares with any of some texts. */
  public static final class CopyFinder {
    private final Map<String, Integer> numbers = new HashMap<>();
    private final List<int[]> sources = new ArrayList<>();

    /** Where each word occurs: source and place. */
    private final Map<Integer, List<int[]>> places = new HashMap<>();

    /** Looks in these texts. */
    public CopyFinder(List<String> texts) {
      for (String text : texts) {
        List<String> words = words(text);
        int[] ids = new int[words.size()];
        for (int i = 0; i < ids.length; i++) {
          ids[i] = numbers.computeIfAbsent(words.get(i), w -> numbers.size());
          places.computeIfAbsent(ids[i], w -> new ArrayList<>()).add(new int[] {sources.size(), i});
        }
        sources.add(ids);
      }
    }

    /** Words of the longest shared run. */
    public int longest(String text) {
      List<String> words = words(text);
      int[] ids = new int[words.size()];
      for (int i = 0; i < ids.length; i++) {
        ids[i] = numbers.getOrDefault(words.get(i), -1);
      }
      int longest = 0;
      for (int i = 0; i + longest < ids.length; i++) {
        for (int[] place : places.getOrDefault(ids[i], List.of())) {
          int[] source = sources.get(place[0]);
          int n = 0;
          while (i + n < ids.length
              && place[1] + n < source.length
              && ids[i + n] == source[place[1] + n]) {
            n++;
          }
          longest = Math.max(longest, n);
        }
      }
      return longest;
    }
  }
}
