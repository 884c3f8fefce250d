// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.korean;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Splits Korean text into sentences by rules:
 *
 * <ul>
 *   <li>a line end ends a sentence;
 *   <li>so do . ! ? … 。 ！ ？ and runs of them, with closing quotes and brackets, where white space
 *       follows, or where Hangul follows the full stop of a word that ends like a verb ("좋아요.그리고");
 *   <li>not three dots behind anything but a verb's end ("음... 글쎄요");
 *   <li>not a full stop after a number at a line's beginning ("1. 위치"), inside a number ("3.5"),
 *       after a single Latin letter or a title ("J. Kim", "Dr. Kim");
 *   <li>laughter and tears behind an end ("좋아요! ㅋㅋ", "맛있어요 ㅠㅠ") stay with their sentence;
 *   <li>without punctuation, a polite ending ("-습니다", "-어요", "-네요", ...) before a space ends a
 *       sentence, except before words that quote or continue it ("라고", "하고").
 * </ul>
 *
 * Thread-safe; the result depends on the text alone.
 */
public final class SentenceSplitter {
  private static final int LOOK_AHEAD = 24;
  private static final int LONGEST_TITLE = 4;
  private static final String ENDS = ".!?…。！？";
  private static final String CLOSERS = "\"'”’)]」』》〉";

  /** Laughter, tears, and what else is typed behind a sentence. */
  private static final Pattern TAIL =
      Pattern.compile("[ \t]*(?:[ㄱ-ㅎㅏ-ㅣ~^♡♥☆★:;]+[)(DP]?[.!?]*)(?=\\s|$)");

  private static final Pattern POLITE =
      Pattern.compile(
          ".*[가-힣](?:니다|어요|아요|해요|예요|에요|네요|세요|군요|지요|데요|래요|게요|까요|나요|거든요|답니다|랍니다|했죠|었죠|았죠|겠죠|져요|려요|셔요|와요|워요|여요|봐요|줘요)[~^]*");

  /** Words that end like a sentence and do not end one. */
  private static final Set<String> NOT_ENDS = Set.of("글쎄요", "그래요", "아니에요");

  private static final Set<String> TITLES =
      Set.of("dr", "mr", "mrs", "ms", "prof", "st", "no", "vs");

  /** Behind an ending without punctuation, these go on with the sentence. */
  private static final Pattern CONTINUES =
      Pattern.compile("(?:라고|라는|라며|라면|하고|하는|하며|했|한다|버튼|라서|만)[가-힣]*.*");

  /** The sentences, in order, without white space around them; none is empty. */
  public List<String> split(String text) {
    List<String> sentences = new ArrayList<>();
    for (String line : text.split("\\R", -1)) {
      splitLine(line.strip(), sentences);
    }
    return sentences;
  }

  private static void splitLine(String line, List<String> sentences) {
    int start = 0;
    int i = 0;
    while (i < line.length()) {
      int end = -1;
      if (ENDS.indexOf(line.charAt(i)) >= 0) {
        end = punctuatedEnd(line, start, i);
        if (end < 0) {
          while (i < line.length() && ENDS.indexOf(line.charAt(i)) >= 0) {
            i++;
          }
          continue;
        }
      } else if (line.charAt(i) == ' ') {
        end = politeEnd(line, start, i);
      }
      if (end >= 0) {
        end = withTail(line, end);
        add(line.substring(start, end), sentences);
        start = end;
        i = end;
      } else {
        i++;
      }
    }
    add(line.substring(start), sentences);
  }

  private static void add(String sentence, List<String> sentences) {
    String stripped = sentence.strip();
    if (!stripped.isEmpty()) {
      sentences.add(stripped);
    }
  }

  /** Where the sentence whose punctuation begins at `at` ends, or -1 where it is no end. */
  private static int punctuatedEnd(String line, int start, int at) {
    int end = at;
    while (end < line.length() && ENDS.indexOf(line.charAt(end)) >= 0) {
      end++;
    }
    boolean fullStop = end == at + 1 && line.charAt(at) == '.';
    while (end < line.length() && CLOSERS.indexOf(line.charAt(end)) >= 0) {
      end++;
    }
    if (fullStop && isAbbreviation(line, start, at)) {
      return -1;
    }
    boolean hesitates = isEllipsis(line, at) && !(at > start && endsLikeVerb(line.charAt(at - 1)));
    if (hesitates && end < line.length()) {
      return -1;
    }
    if (end == line.length() || Character.isWhitespace(line.charAt(end))) {
      return end;
    }
    // The space was forgotten.
    boolean hangulFollows = isHangul(line.charAt(end));
    boolean hangulBefore = at > start && isHangul(line.charAt(at - 1));
    if (hangulFollows && hangulBefore && end == at + 1 && endsLikeVerb(line.charAt(at - 1))) {
      return end;
    }
    return -1;
  }

  /** "음... 생각보다": three dots behind anything but a verb's end are a pause. */
  private static boolean isEllipsis(String line, int at) {
    return line.charAt(at) == '…' || line.startsWith("..", at);
  }

  private static boolean endsLikeVerb(char c) {
    return c == '다' || c == '요' || c == '죠' || c == '까';
  }

  private static boolean isAbbreviation(String line, int start, int at) {
    int word = at;
    while (word > start && Character.isLetterOrDigit(line.charAt(word - 1))) {
      word--;
    }
    String before = line.substring(word, at);
    if (before.isEmpty() || before.length() > LONGEST_TITLE) {
      return false;
    }
    // Sentences begin without white space, but for one space behind the sentence before.
    boolean first = word <= start + 1;
    if (first && before.length() <= 2 && before.chars().allMatch(Character::isDigit)) {
      return true;
    }
    boolean latin = before.chars().allMatch(c -> c < 128 && Character.isLetter(c));
    return latin && (before.length() == 1 || TITLES.contains(before.toLowerCase(Locale.ROOT)));
  }

  /** Where a sentence ends whose last word ends at the space `space`, or -1. */
  private static int politeEnd(String line, int start, int space) {
    int word = space;
    while (word > start && !Character.isWhitespace(line.charAt(word - 1))) {
      word--;
    }
    String last = line.substring(word, space);
    if (last.length() < 2
        || last.charAt(0) == '"'
        || last.charAt(0) == '“'
        || NOT_ENDS.contains(last)
        || !POLITE.matcher(last).matches()) {
      return -1;
    }
    // What follows, a few words of it: the rest of a long line would make this quadratic.
    String rest = line.substring(space, Math.min(line.length(), space + LOOK_AHEAD)).stripLeading();
    return CONTINUES.matcher(rest).lookingAt() ? -1 : space;
  }

  private static int withTail(String line, int end) {
    Matcher tail = TAIL.matcher(line).region(end, line.length());
    return tail.lookingAt() ? tail.end() : end;
  }

  private static boolean isHangul(char c) {
    return c >= '가' && c <= '힣';
  }
}
