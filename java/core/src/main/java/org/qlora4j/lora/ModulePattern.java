// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;

/**
 * A regular expression over module paths, as PEFT's options have them: in Python's syntax, matched
 * as a whole. Patterns come from files, so that matching gives up where it would go on for long.
 */
final class ModulePattern {

  /** Characters that one match may look at; a path of 100 characters needs a few thousand. */
  private static final int MOST_LOOKS = 1_000_000;

  private final String source;
  private final Pattern pattern;

  private ModulePattern(String source, Pattern pattern) {
    this.source = source;
    this.pattern = pattern;
  }

  /** {@code re.fullmatch(expression, path)}. */
  static ModulePattern whole(String expression) {
    return new ModulePattern(expression, compile(expression, expression));
  }

  /** The expression is the path's end after a dot, or all of it: keys of rank_pattern. */
  static ModulePattern end(String expression) {
    return new ModulePattern(expression, compile(expression, "(?:.*\\.)?(?:" + expression + ")"));
  }

  /** The expression is some components of the path: names of modules_to_save. */
  static ModulePattern within(String expression) {
    return new ModulePattern(
        expression, compile(expression, "(?:.*\\.)?(?:" + expression + ")(?:\\..*)?"));
  }

  /** The expression names a list of modules, whose number follows: see {@link #layerIn}. */
  static ModulePattern layer(String expression) {
    return new ModulePattern(
        expression, compile(expression, "(?:|.*?\\.)(?:" + expression + ")\\.(?<layer>\\d+)\\..*"));
  }

  /**
   * Checks an expression when it is read.
   *
   * @throws InputException that names the option, for one that is none
   */
  static void check(String option, String expression) {
    try {
      compile(expression, expression);
    } catch (InputException e) {
      throw new InputException(option + ": " + e.getMessage(), e);
    }
  }

  private static Pattern compile(String source, String whole) {
    String java = whole.replace("(?P<", "(?<").replaceAll("\\(\\?P=(\\w+)\\)", "\\\\k<$1>");
    try {
      return Pattern.compile(java.replace("\\Z", "\\z"));
    } catch (PatternSyntaxException e) {
      throw new InputException(
          "expected a regular expression over module paths, found "
              + Text.quote(source)
              + ": "
              + e.getDescription(),
          e);
    }
  }

  boolean matches(String path) {
    return match(path) != null;
  }

  /** The number that follows the list's name in the path, or null. */
  @Nullable String layerIn(String path) {
    Matcher matcher = match(path);
    return matcher == null ? null : matcher.group("layer");
  }

  private @Nullable Matcher match(String path) {
    try {
      Matcher matcher = pattern.matcher(new Bounded(path, 0, path.length(), new int[1]));
      return matcher.matches() ? matcher : null;
    } catch (TooLong | StackOverflowError e) {
      throw new InputException(
          "the regular expression "
              + Text.quote(source)
              + " takes too long on "
              + Text.quote(path)
              + "; write it without nested repetitions",
          e);
    }
  }

  private static final class TooLong extends RuntimeException {
    private static final long serialVersionUID = 1;
  }

  /** A text that may be looked at a bounded number of times. */
  private record Bounded(String text, int start, int end, int[] looks) implements CharSequence {
    @Override
    public char charAt(int index) {
      if (++looks[0] > MOST_LOOKS) {
        throw new TooLong();
      }
      return text.charAt(start + index);
    }

    @Override
    public int length() {
      return end - start;
    }

    @Override
    public CharSequence subSequence(int from, int to) {
      return new Bounded(text, start + from, start + to, looks);
    }

    @Override
    public String toString() {
      return text.substring(start, end);
    }
  }
}
