// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.sentiment;

import java.text.Normalizer;
import java.util.Arrays;
import java.util.Locale;
import org.qlora4j.korean.Morphemes;

/**
 * Which features a text has: runs of 1 to {@value #LONGEST_GRAM} characters, morphemes, and pairs
 * of neighbouring morphemes, each hashed to {@value #BITS} bits. A feature counts once a text,
 * however often it occurs.
 *
 * <p>The hash is part of the model format: changing anything here needs a new format version.
 */
final class SentimentFeatures {
  /**
   * Of a feature's number. With 900,000 features in 2^24 numbers one in twenty shares its number.
   */
  static final int BITS = 24;

  static final int LONGEST_GRAM = 5;

  /** Longer texts are judged by their beginning: nobody reviews anything in more. */
  static final int MAX_CHARS = 20_000;

  private static final int LONGEST_RUN = 2;
  private static final long FNV_OFFSET = 0xcbf29ce484222325L;
  private static final long FNV_PRIME = 0x100000001b3L;
  private static final long GRAM = 0x51;
  private static final long SINGLE = 0x52;
  private static final long PAIR = 0x53;

  private final Morphemes morphemes = new Morphemes();

  /** The text's features, ascending, each once. Empty for a text of spaces. */
  int[] of(String text) {
    return of(text, (term, tag, start, end) -> {});
  }

  /** The same, and shows the morphemes of the normalized text to a visitor. */
  int[] of(String text, Morphemes.Visitor also) {
    String normal = normalize(text);
    Numbers numbers = new Numbers(normal.length() * (LONGEST_GRAM + 2));
    addGrams(normal, numbers);
    addMorphemes(normal, numbers, also);
    return numbers.distinct();
  }

  /**
   * Compatibility forms composed (NFKC), lower case, white space as one space, runs of one
   * character cut to two, digits apart.
   */
  static String normalize(String text) {
    String cut = text.length() > MAX_CHARS ? text.substring(0, MAX_CHARS) : text;
    String composed = Normalizer.normalize(cut, Normalizer.Form.NFKC).toLowerCase(Locale.ROOT);
    StringBuilder out = new StringBuilder(composed.length());
    char last = 0;
    int run = 0;
    for (int i = 0; i < composed.length(); i++) {
      char c = composed.charAt(i);
      if (Character.isWhitespace(c) || Character.isISOControl(c)) {
        c = ' ';
      }
      run = c == last ? run + 1 : 1;
      last = c;
      if (run == 1 || (c != ' ' && run <= LONGEST_RUN) || Character.isDigit(c)) {
        out.append(c);
      }
    }
    return out.toString().strip();
  }

  private static void addGrams(String normal, Numbers numbers) {
    if (normal.isEmpty()) {
      return;
    }
    String padded = " " + normal + " ";
    for (int start = 0; start < padded.length(); start++) {
      long hash = FNV_OFFSET ^ GRAM;
      int end = Math.min(padded.length(), start + LONGEST_GRAM);
      for (int i = start; i < end; i++) {
        hash = next(hash, padded.charAt(i));
        if (i > start || padded.charAt(i) != ' ') {
          numbers.add(number(hash));
        }
      }
    }
  }

  private void addMorphemes(String normal, Numbers numbers, Morphemes.Visitor also) {
    long[] previous = {0};
    morphemes.visit(
        normal,
        (term, tag, start, end) -> {
          long hash = next(FNV_OFFSET, tag.name());
          hash = next(hash, term);
          numbers.add(number(next(hash, (char) SINGLE)));
          if (previous[0] != 0) {
            numbers.add(number(next(hash, (char) PAIR) * 31 + previous[0]));
          }
          previous[0] = hash;
          also.visit(term, tag, start, end);
        });
  }

  private static long next(long hash, CharSequence text) {
    long result = hash;
    for (int i = 0; i < text.length(); i++) {
      result = next(result, text.charAt(i));
    }
    return result;
  }

  private static long next(long hash, char c) {
    return (hash ^ c) * FNV_PRIME;
  }

  /** The upper bits after murmur3's finalizer, which spreads every bit over all. */
  private static int number(long hash) {
    long h = hash;
    h = (h ^ h >>> 33) * 0xff51afd7ed558ccdL;
    h = (h ^ h >>> 33) * 0xc4ceb9fe1a85ec53L;
    return (int) ((h ^ h >>> 33) >>> (64 - BITS));
  }

  /** A growing list of numbers. */
  private static final class Numbers {
    private int[] values;
    private int size;

    Numbers(int expected) {
      values = new int[Math.max(16, expected)];
    }

    void add(int value) {
      if (size == values.length) {
        values = Arrays.copyOf(values, size * 2);
      }
      values[size++] = value;
    }

    int[] distinct() {
      Arrays.sort(values, 0, size);
      int kept = 0;
      for (int i = 0; i < size; i++) {
        if (i == 0 || values[i] != values[i - 1]) {
          values[kept++] = values[i];
        }
      }
      return Arrays.copyOf(values, kept);
    }
  }
}
