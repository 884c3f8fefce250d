// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.text.Normalizer;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.qlora4j.korean.SentenceSplitter;

/** Takes out of a post what no reader should learn from. Thread-safe. */
final class TextCleaner {
  private static final Pattern URL =
      Pattern.compile(
          "(?:https?|ftp)://[^\\s<>\"'가-힣]+|(?<![\\w@.-])www\\.[^\\s<>\"'가-힣]+"
              + "|(?<![\\w@.-])(?:[a-z0-9-]{1,63}\\.){1,4}(?:com|net|org|kr|io|me|ly|shop|store|app|link|gl|be)(?![a-z0-9@.-])(?:/[^\\s<>\"'가-힣]*)?",
          Pattern.CASE_INSENSITIVE);

  // Loops over groups are possessive: others recurse, and a flood of 10,000 emoji ends the stack.
  private static final String SYMBOL =
      "[\\x{1F000}-\\x{1FAFF}\\x{2600}-\\x{27BF}\\x{2B50}\\x{2B55}\\x{2B1B}\\x{2B1C}\\x{2764}\\x{203C}\\x{2049}\\x{25AA}-\\x{25FE}]";
  private static final String EMOJI =
      "(?:"
          + SYMBOL
          + "[\\x{FE0F}\\x{1F3FB}-\\x{1F3FF}\\x{20E3}]*+(?:\\x{200D}"
          + SYMBOL
          + "[\\x{FE0F}\\x{1F3FB}-\\x{1F3FF}]*+)*+)";
  private static final Pattern ANY_EMOJI = Pattern.compile(EMOJI);
  private static final Pattern EMOJI_FLOOD = Pattern.compile(EMOJI + "(?:[ \\t]*+" + EMOJI + ")++");

  private static final String HASHTAG = "#[\\p{L}_][\\p{L}\\p{N}_]*";
  private static final Pattern HASHTAG_FLOOD =
      Pattern.compile("(?<![\\p{L}\\p{N}&])" + HASHTAG + "(?:[\\s,]*+" + HASHTAG + ")++");
  private static final Pattern HASHTAG_MARK = Pattern.compile("(?<![\\p{L}\\p{N}&])#(?=[\\p{L}_])");

  private static final Pattern JAMO_RUN = Pattern.compile("([ㄱ-ㅎㅏ-ㅣ])\\1{2,}");
  private static final Pattern STOP_RUN = Pattern.compile("\\.{4,}|…{2,}");
  private static final Pattern SIGN_RUN = Pattern.compile("([^\\p{L}\\p{N}\\s.…])\\1{2,}");

  private static final Pattern INVISIBLE =
      Pattern.compile(
          "[\\x{200B}\\x{200C}\\x{2060}\\x{FEFF}\\x{00AD}\\x{FFFD}\\p{Cc}&&[^\\n\\t\\r]]");
  private static final Pattern SPACES = Pattern.compile("[\\p{Zs}\\t]+");
  private static final Pattern SPACE_BEFORE_STOP = Pattern.compile(" +(?=[.,!?](?:\\s|$))");
  private static final Pattern BRACKETS = Pattern.compile("[\\[(【<][^\\[\\]()【】<>]{0,40}[\\])】>]");

  private final RefineConfig.Cleaning rules;
  private final Disclosures disclosures;
  private final SentenceSplitter splitter = new SentenceSplitter();

  TextCleaner(RefineConfig.Cleaning rules) {
    this.rules = rules;
    this.disclosures = new Disclosures(rules.disclosurePatterns());
  }

  /**
   * What is left of a post.
   *
   * @param steps how often each step found something
   * @param disclosed whether the post said that it was paid for
   */
  record Cleaned(List<String> sentences, Map<CleaningStep, Integer> steps, boolean disclosed) {
    Cleaned {
      sentences = List.copyOf(sentences);
    }
  }

  /** Cleans a post's text. */
  Cleaned clean(String raw) {
    Map<CleaningStep, Integer> steps = new EnumMap<>(CleaningStep.class);
    String text = withoutMarkup(raw, steps);
    text = Normalizer.normalize(text, Normalizer.Form.NFC);
    text = INVISIBLE.matcher(text).replaceAll("");
    text = replace(URL, text, " ", CleaningStep.URL, steps);
    text = replace(HASHTAG_FLOOD, text, " ", CleaningStep.HASHTAGS, steps);
    text = HASHTAG_MARK.matcher(text).replaceAll("");
    if (rules.emoji() == RefineConfig.Emoji.FLOODS) {
      text = replace(EMOJI_FLOOD, text, " ", CleaningStep.EMOJI, steps);
    } else if (rules.emoji() == RefineConfig.Emoji.ALL) {
      text = replace(ANY_EMOJI, text, " ", CleaningStep.EMOJI, steps);
    }
    text = replace(JAMO_RUN, text, "$1$1", CleaningStep.REPEATED_CHARACTERS, steps);
    text = replace(STOP_RUN, text, "...", CleaningStep.REPEATED_CHARACTERS, steps);
    text = replace(SIGN_RUN, text, "$1", CleaningStep.REPEATED_CHARACTERS, steps);
    return sentences(text, steps);
  }

  private Cleaned sentences(String text, Map<CleaningStep, Integer> steps) {
    List<String> kept = new ArrayList<>();
    Set<String> seen = new HashSet<>();
    boolean disclosed = false;
    for (String sentence : splitter.split(text)) {
      String clean = SPACES.matcher(sentence).replaceAll(" ");
      clean = SPACE_BEFORE_STOP.matcher(clean).replaceAll("").strip();
      String letters = lettersOf(clean);
      if (letters.isEmpty()) {
        continue;
      }
      if (rules.disclosures() != RefineConfig.DisclosureRule.KEEP && disclosures.discloses(clean)) {
        disclosed = true;
        steps.merge(CleaningStep.DISCLOSURE, 1, Integer::sum);
        continue;
      }
      if (PersonalData.isIn(clean)) {
        steps.merge(CleaningStep.PERSONAL_DATA, 1, Integer::sum);
        if (rules.personalData() == RefineConfig.PersonalDataRule.DROP_SENTENCE) {
          continue;
        }
        clean = PersonalData.replace(clean, rules.personalDataMask());
      }
      if (!seen.add(letters)) {
        steps.merge(CleaningStep.REPEATED_SENTENCE, 1, Integer::sum);
        continue;
      }
      kept.add(clean);
    }
    return new Cleaned(kept, steps, disclosed);
  }

  /** A title or keywords on one line: without markup, links, emoji, personal data and "[협찬]". */
  String cleanLine(String raw) {
    String text = withoutMarkup(raw, new EnumMap<>(CleaningStep.class));
    text = Normalizer.normalize(text, Normalizer.Form.NFC);
    text = INVISIBLE.matcher(text).replaceAll("");
    text = URL.matcher(text).replaceAll(" ");
    text = PersonalData.replace(text, " ");
    text = ANY_EMOJI.matcher(text).replaceAll(" ");
    text = HASHTAG_MARK.matcher(text).replaceAll("");
    Matcher brackets = BRACKETS.matcher(text);
    text =
        brackets.replaceAll(
            found ->
                disclosures.discloses(found.group())
                    ? " "
                    : Matcher.quoteReplacement(found.group()));
    text = text.replaceAll("[\\r\\n]+", " ");
    return SPACES.matcher(text).replaceAll(" ").strip();
  }

  private String withoutMarkup(String raw, Map<CleaningStep, Integer> steps) {
    boolean html =
        rules.html() == RefineConfig.Html.ALWAYS
            || (rules.html() == RefineConfig.Html.AUTO && Markup.isHtml(raw));
    String text = html ? Markup.textOf(raw) : raw;
    String plain = Markup.withoutMarkdown(text);
    if (html || !plain.equals(text)) {
      steps.merge(CleaningStep.MARKUP, 1, Integer::sum);
    }
    return plain;
  }

  private static String replace(
      Pattern pattern,
      String text,
      String by,
      CleaningStep step,
      Map<CleaningStep, Integer> steps) {
    Matcher matcher = pattern.matcher(text);
    if (!matcher.find()) {
      return text;
    }
    StringBuilder out = new StringBuilder(text.length());
    int count = 0;
    do {
      matcher.appendReplacement(out, by);
      count++;
    } while (matcher.find());
    matcher.appendTail(out);
    steps.merge(step, count, Integer::sum);
    return out.toString();
  }

  /** Letters and digits alone, in lower case: what two texts are compared by. */
  static String lettersOf(String text) {
    StringBuilder letters = new StringBuilder(text.length());
    text.codePoints()
        .filter(Character::isLetterOrDigit)
        .map(Character::toLowerCase)
        .forEach(letters::appendCodePoint);
    return letters.toString();
  }
}
