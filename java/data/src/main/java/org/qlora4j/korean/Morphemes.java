// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.korean;

import java.io.IOException;
import java.io.StringReader;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.lucene.analysis.ko.KoreanTokenizer;
import org.apache.lucene.analysis.ko.POS;
import org.apache.lucene.analysis.ko.tokenattributes.PartOfSpeechAttribute;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.apache.lucene.analysis.tokenattributes.OffsetAttribute;

/**
 * Morphemes of Korean text by Lucene's Nori and its dictionary (mecab-ko-dic). Thread-safe: a
 * thread takes an analyzer from a pool for the time of a call.
 */
public final class Morphemes {
  /**
   * A Nori tokenizer holds its dictionary (shared) and buffers; making one costs more than using
   * it.
   */
  private final ConcurrentLinkedQueue<Analyzer> idle = new ConcurrentLinkedQueue<>();

  /** Takes morphemes in their order. */
  @FunctionalInterface
  public interface Visitor {
    void visit(CharSequence text, POS.Tag tag, int start, int end);
  }

  /** Calls the visitor for each morpheme of the text; `text` is valid only during the call. */
  public void visit(String text, Visitor visitor) {
    Analyzer analyzer = idle.poll();
    if (analyzer == null) {
      analyzer = new Analyzer();
    }
    analyzer.visit(text, visitor);
    // Not after a failure, which leaves a tokenizer in the middle of its work.
    idle.add(analyzer);
  }

  /** Counts the nouns that it is shown. */
  public static final class NounCounter implements Visitor {
    private final Map<String, Integer> counts = new LinkedHashMap<>();

    @Override
    public void visit(CharSequence text, POS.Tag tag, int start, int end) {
      // Nouns of one syllable are mostly parts of other words.
      if ((tag == POS.Tag.NNG || tag == POS.Tag.NNP) && text.length() >= 2) {
        counts.merge(text.toString(), 1, Integer::sum);
      }
    }

    /**
     * Common and proper nouns of two or more syllables, the most frequent first, ties in the order
     * of their first appearance.
     */
    public List<String> mostFrequent(int most) {
      List<Map.Entry<String, Integer>> entries = new ArrayList<>(counts.entrySet());
      entries.sort(Map.Entry.<String, Integer>comparingByValue().reversed());
      return entries.stream().limit(most).map(Map.Entry::getKey).toList();
    }
  }

  /** One Nori tokenizer with the attributes it fills. */
  private static final class Analyzer {
    private final KoreanTokenizer tokenizer =
        new KoreanTokenizer(
            KoreanTokenizer.DEFAULT_TOKEN_ATTRIBUTE_FACTORY,
            null,
            KoreanTokenizer.DecompoundMode.DISCARD,
            false,
            true);
    private final CharTermAttribute term = tokenizer.addAttribute(CharTermAttribute.class);
    private final OffsetAttribute offset = tokenizer.addAttribute(OffsetAttribute.class);
    private final PartOfSpeechAttribute speech =
        tokenizer.addAttribute(PartOfSpeechAttribute.class);

    void visit(String text, Visitor visitor) {
      try {
        tokenizer.setReader(new StringReader(text));
        tokenizer.reset();
        while (tokenizer.incrementToken()) {
          POS.Tag tag = speech.getLeftPOS();
          visitor.visit(
              term, tag == null ? POS.Tag.UNKNOWN : tag, offset.startOffset(), offset.endOffset());
        }
        tokenizer.end();
        tokenizer.close();
      } catch (IOException e) {
        throw new UncheckedIOException("a text in memory cannot be read", e);
      }
    }
  }
}
