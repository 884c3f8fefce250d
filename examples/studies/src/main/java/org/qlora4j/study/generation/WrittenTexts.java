// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.generation;

import java.util.List;
import org.qlora4j.sentiment.SentimentModel;
import org.qlora4j.study.generation.TextMeasures.CopyFinder;

/**
 * What one model wrote for all prompts, measured; arrays have a value for each text.
 *
 * @param name of the model
 * @param texts in the order of the prompts
 * @param words of each
 * @param characters of each
 * @param positive probability of each to be positive; an empty text has 0
 * @param repetition share of runs of three words that a text had before
 * @param copied words of the longest run shared with the training examples
 * @param perplexity exp of the held-out loss per token
 * @param othersCpus processors that other processes kept busy while it wrote
 */
record WrittenTexts(
    String name,
    List<GeneratedText> texts,
    double[] words,
    double[] characters,
    double[] positive,
    double[] repetition,
    double[] copied,
    double perplexity,
    double othersCpus) {

  static WrittenTexts measure(
      String name,
      List<GeneratedText> texts,
      SentimentModel sentiment,
      CopyFinder training,
      double perplexity,
      double othersCpus) {
    int n = texts.size();
    WrittenTexts made =
        new WrittenTexts(
            name,
            List.copyOf(texts),
            new double[n],
            new double[n],
            new double[n],
            new double[n],
            new double[n],
            perplexity,
            othersCpus);
    for (int i = 0; i < n; i++) {
      String text = texts.get(i).text();
      made.words[i] = TextMeasures.words(text).size();
      made.characters[i] = TextMeasures.characters(text);
      made.positive[i] = text.isBlank() ? 0 : sentiment.positive(text);
      made.repetition[i] = TextMeasures.repetition(text, 3);
      made.copied[i] = training.longest(text);
    }
    return made;
  }

  /** 1 for each text that is positive, else 0. */
  double[] isPositive(double threshold) {
    double[] is = new double[positive.length];
    for (int i = 0; i < is.length; i++) {
      is[i] = positive[i] >= threshold ? 1 : 0;
    }
    return is;
  }

  double[] seconds() {
    return texts.stream().mapToDouble(GeneratedText::seconds).toArray();
  }

  double[] tokens() {
    return texts.stream().mapToDouble(GeneratedText::tokens).toArray();
  }

  double distinct(int n) {
    return TextMeasures.distinct(texts.stream().map(GeneratedText::text).toList(), n);
  }

  /** Share of texts that their model ended itself. */
  double stopped() {
    return texts.stream().mapToDouble(t -> t.stopped() ? 1 : 0).average().orElse(Double.NaN);
  }
}
