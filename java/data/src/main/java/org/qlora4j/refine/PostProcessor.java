// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.korean.Morphemes;
import org.qlora4j.rows.BadRow;
import org.qlora4j.rows.RawRow;
import org.qlora4j.rows.RowParser;
import org.qlora4j.sentiment.SentimentModel;

/** Everything about a row that depends on that row alone. Thread-safe. */
final class PostProcessor {
  private static final int SHOWN_CHARS = 160;

  private final RefineConfig config;
  private final TextCleaner cleaner;
  private final PromptTemplate template;
  private final Morphemes morphemes = new Morphemes();
  private final @Nullable SentimentModel sentiment;

  PostProcessor(RefineConfig config, @Nullable SentimentModel sentiment) {
    this.config = config;
    this.cleaner = new TextCleaner(config.cleaning());
    this.template = new PromptTemplate(config.prompt());
    this.sentiment = sentiment;
  }

  /** What became of a row. */
  sealed interface Outcome {
    RawRow row();

    /** What cleaning found. */
    Map<CleaningStep, Integer> steps();
  }

  /**
   * A row that is no example.
   *
   * @param shown the beginning of its text, without personal data
   */
  record Dropped(
      RawRow row, Map<CleaningStep, Integer> steps, DropReason reason, String detail, String shown)
      implements Outcome {}

  /**
   * A row that becomes an example unless it repeats another.
   *
   * @param letters hash of the text's letters and digits
   * @param group hash of what decides about the held-out split
   * @param positive probability, or NaN where none was asked for
   */
  record Candidate(
      RawRow row,
      Map<CleaningStep, Integer> steps,
      PromptTemplate.Pair pair,
      int words,
      long letters,
      byte[] signature,
      long group,
      double positive)
      implements Outcome {}

  Outcome process(RawRow raw, RowParser parser) {
    RowParser.Row row;
    String text;
    String title;
    List<String> keywords;
    String group;
    RefineConfig.Input input = config.input();
    try {
      row = parser.parse(raw);
      text = row.require(input.textField());
      title = field(row, input.titleField());
      keywords = PromptTemplate.keywordsOf(cleaner.cleanLine(field(row, input.keywordsField())));
      group = field(row, input.groupField());
    } catch (BadRow e) {
      DropReason reason =
          switch (e.kind()) {
            case TOO_LONG -> DropReason.ROW_TOO_LONG;
            case NOT_UTF8 -> DropReason.INVALID_UTF8;
            case MALFORMED -> DropReason.MALFORMED;
            case MISSING_FIELD -> DropReason.MISSING_FIELD;
          };
      return new Dropped(raw, Map.of(), reason, String.valueOf(e.getMessage()), shown(raw));
    }
    TextCleaner.Cleaned cleaned = cleaner.clean(text);
    return judge(raw, cleaned, cleaner.cleanLine(title), keywords, group, text);
  }

  private static String field(RowParser.Row row, @Nullable String name) throws BadRow {
    String value = name == null ? null : row.get(name);
    return value == null ? "" : value;
  }

  private Outcome judge(
      RawRow raw,
      TextCleaner.Cleaned cleaned,
      String title,
      List<String> keywords,
      String group,
      String original) {
    RefineConfig.Filters filters = config.filters();
    Map<CleaningStep, Integer> steps = cleaned.steps();
    String whole = String.join(" ", cleaned.sentences());
    if (cleaned.disclosed()
        && config.cleaning().disclosures() == RefineConfig.DisclosureRule.DROP_POST) {
      return new Dropped(raw, steps, DropReason.SPONSORED, "", shown(original));
    }
    if (whole.isEmpty()) {
      return new Dropped(raw, steps, DropReason.EMPTY, "", shown(original));
    }
    int words = words(whole);
    if (words < filters.minWords()) {
      return new Dropped(raw, steps, DropReason.TOO_SHORT, words + " words", shown(whole));
    }
    String text = whole;
    if (words > filters.maxWords()) {
      text = filters.tooLong() == RefineConfig.TooLong.CUT ? cut(cleaned.sentences()) : "";
      if (text.isEmpty()) {
        return new Dropped(raw, steps, DropReason.TOO_LONG, words + " words", shown(whole));
      }
      steps = new EnumMap<>(CleaningStep.class);
      steps.putAll(cleaned.steps());
      steps.put(CleaningStep.SHORTENED, 1);
    }
    double hangul = hangulShare(text);
    if (hangul < filters.minHangul()) {
      return new Dropped(
          raw, steps, DropReason.WRONG_LANGUAGE, percent(hangul) + " of letters", shown(text));
    }
    double distinct = distinctWords(text);
    if (distinct < filters.minDistinctWords()) {
      return new Dropped(
          raw, steps, DropReason.REPETITIVE, percent(distinct) + " distinct words", shown(text));
    }
    Morphemes.NounCounter nouns = new Morphemes.NounCounter();
    boolean needsNouns = keywords.isEmpty() && template.needsKeywords(title);
    double positive = positive(text, needsNouns, nouns);
    if (positive < filters.minPositive()) {
      return new Dropped(
          raw,
          steps,
          DropReason.NOT_POSITIVE,
          String.format(Locale.ROOT, "%.2f", positive),
          shown(text));
    }
    List<String> names =
        keywords.isEmpty() ? nouns.mostFrequent(config.prompt().keywords()) : keywords;
    PromptTemplate.Pair pair = template.of(text, title, names);
    if (pair == null) {
      return new Dropped(raw, steps, DropReason.NO_PROMPT, "", shown(text));
    }
    String letters = TextCleaner.lettersOf(text);
    return new Candidate(
        raw,
        steps,
        pair,
        words(text),
        Hashes.of(letters),
        filters.nearDuplicate() > 1 ? new byte[0] : MinHash.of(letters),
        Hashes.of(group.isEmpty() ? letters : group),
        positive);
  }

  /** The probability of being positive, NaN where nobody asks for it; counts nouns by the way. */
  private double positive(String text, boolean needsNouns, Morphemes.NounCounter nouns) {
    if (sentiment != null) {
      return sentiment.positive(text, nouns);
    }
    if (needsNouns) {
      morphemes.visit(text, nouns);
    }
    return Double.NaN;
  }

  /** The first sentences that fit, or nothing where they are too few words. */
  private String cut(List<String> sentences) {
    List<String> kept = new ArrayList<>();
    int words = 0;
    for (String sentence : sentences) {
      words += words(sentence);
      if (words > config.filters().maxWords()) {
        break;
      }
      kept.add(sentence);
    }
    String text = String.join(" ", kept);
    return words(text) < config.filters().minWords() ? "" : text;
  }

  static int words(String text) {
    if (text.isEmpty()) {
      return 0;
    }
    int words = 1;
    for (int i = 0; i < text.length(); i++) {
      words += text.charAt(i) == ' ' ? 1 : 0;
    }
    return words;
  }

  private static double hangulShare(String text) {
    int letters = 0;
    int hangul = 0;
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      if (Character.isLetter(c)) {
        letters++;
        hangul += c >= '가' && c <= '힣' ? 1 : 0;
      }
    }
    return letters == 0 ? 0 : (double) hangul / letters;
  }

  private static double distinctWords(String text) {
    String[] words = text.split(" ", -1);
    Set<String> distinct = new HashSet<>(List.of(words));
    return (double) distinct.size() / words.length;
  }

  private static String percent(double share) {
    return String.format(Locale.ROOT, "%.0f%%", share * 100);
  }

  private static String shown(RawRow raw) {
    return shown(
        new String(
            raw.bytes(), 0, Math.min(raw.bytes().length, 4 * SHOWN_CHARS), StandardCharsets.UTF_8));
  }

  private static String shown(String text) {
    // Masked before it is cut, so that no half of a number escapes.
    String head = text.length() > 4 * SHOWN_CHARS ? text.substring(0, 4 * SHOWN_CHARS) : text;
    String masked = PersonalData.replace(head.strip(), "***");
    if (masked.length() <= SHOWN_CHARS) {
      return masked;
    }
    int end =
        Character.isHighSurrogate(masked.charAt(SHOWN_CHARS - 1)) ? SHOWN_CHARS - 1 : SHOWN_CHARS;
    return masked.substring(0, end) + "…";
  }
}
