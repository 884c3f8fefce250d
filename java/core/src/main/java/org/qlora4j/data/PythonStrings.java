// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import java.beans.FeatureDescriptor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Locale;
import java.util.StringJoiner;
import jinjava.javax.el.ELContext;
import jinjava.javax.el.ELException;
import jinjava.javax.el.ELResolver;
import jinjava.javax.el.MethodNotFoundException;
import org.jspecify.annotations.Nullable;

/**
 * The methods of Python's {@code str} that chat templates call. Jinjava alone offers those of
 * Java's String, where {@code split} takes a regular expression and {@code lstrip} does not exist.
 * What they make has the template's bounds.
 */
final class PythonStrings extends ELResolver {

  @Override
  public @Nullable Object invoke(
      ELContext context,
      @Nullable Object base,
      Object method,
      Class<?> @Nullable [] types,
      Object @Nullable [] parameters) {
    if (!(base instanceof CharSequence text)) {
      return null;
    }
    Object result = call(text.toString(), String.valueOf(method), parameters);
    if (result != null) {
      context.setPropertyResolved(true);
    }
    return result;
  }

  /** Null for a method that is not known here. */
  private static @Nullable Object call(String text, String method, Object @Nullable [] given) {
    Object[] p = given == null ? new Object[0] : given;
    return switch (method) {
      case "strip" -> strip(text, characters(method, p), true, true);
      case "lstrip" -> strip(text, characters(method, p), true, false);
      case "rstrip" -> strip(text, characters(method, p), false, true);
      case "lower" -> text.toLowerCase(Locale.ROOT);
      case "upper" -> text.toUpperCase(Locale.ROOT);
      case "title" -> title(text);
      case "capitalize" ->
          text.isEmpty()
              ? text
              : text.substring(0, 1).toUpperCase(Locale.ROOT)
                  + text.substring(1).toLowerCase(Locale.ROOT);
      case "startswith" -> text.startsWith(string(method, p, 0));
      case "endswith" -> text.endsWith(string(method, p, 0));
      case "removeprefix" ->
          text.startsWith(string(method, p, 0))
              ? text.substring(string(method, p, 0).length())
              : text;
      case "removesuffix" ->
          text.endsWith(string(method, p, 0))
              ? text.substring(0, text.length() - string(method, p, 0).length())
              : text;
      case "find" -> (long) text.indexOf(string(method, p, 0));
      case "count" -> (long) split(text, string(method, p, 0), -1).size() - 1;
      case "replace" ->
          replace(text, string(method, p, 0), string(method, p, 1), integer(method, p, 2));
      case "split" ->
          p.length == 0 ? words(text) : split(text, string(method, p, 0), integer(method, p, 1));
      case "splitlines" -> bounded(text.lines().limit(ChatTemplate.MAX_LIST_SIZE + 1L).toList());
      case "join" -> join(text, p);
      default -> null;
    };
  }

  private static @Nullable String characters(String method, Object[] parameters) {
    return parameters.length == 0 ? null : string(method, parameters, 0);
  }

  private static String string(String method, Object[] parameters, int index) {
    if (index < parameters.length && parameters[index] instanceof CharSequence text) {
      return text.toString();
    }
    throw new MethodNotFoundException(
        "str." + method + ": expected a string as argument " + (index + 1));
  }

  /** An optional count; -1 for all. */
  private static int integer(String method, Object[] parameters, int index) {
    if (index >= parameters.length) {
      return -1;
    }
    if (parameters[index] instanceof Number number) {
      return (int) Math.max(-1, Math.min(Integer.MAX_VALUE, number.longValue()));
    }
    throw new MethodNotFoundException(
        "str." + method + ": expected a number as argument " + (index + 1));
  }

  /** Takes characters off the ends: those of a set, or white space where there is none. */
  private static String strip(String text, @Nullable String set, boolean left, boolean right) {
    int start = 0;
    int end = text.length();
    while (left && start < end && stripped(text.charAt(start), set)) {
      start++;
    }
    while (right && end > start && stripped(text.charAt(end - 1), set)) {
      end--;
    }
    return text.substring(start, end);
  }

  private static boolean stripped(char c, @Nullable String set) {
    // Python's white space also has the no-break spaces, which Java's leaves out.
    return set != null
        ? set.indexOf(c) >= 0
        : Character.isWhitespace(c) || Character.isSpaceChar(c) || c == '\u0085';
  }

  private static String title(String text) {
    StringBuilder title = new StringBuilder();
    boolean inside = false;
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      title.append(inside ? Character.toLowerCase(c) : Character.toUpperCase(c));
      inside = Character.isLetter(c);
    }
    return title.toString();
  }

  /** At most {@code most} cuts, all where it is negative. */
  private static List<String> split(String text, String separator, int most) {
    if (separator.isEmpty()) {
      throw new MethodNotFoundException("str.split: expected a separator, found an empty string");
    }
    List<String> parts = new ArrayList<>();
    int from = 0;
    for (int at = text.indexOf(separator);
        at >= 0 && (most < 0 || parts.size() < most);
        at = text.indexOf(separator, from)) {
      bounded(parts).add(text.substring(from, at));
      from = at + separator.length();
    }
    parts.add(text.substring(from));
    return parts;
  }

  private static String replace(String text, String old, String by, int most) {
    List<String> parts = split(text, old, most);
    checkLength(text.length() + (parts.size() - 1L) * (by.length() - old.length()));
    return String.join(by, parts);
  }

  private static List<String> bounded(List<String> parts) {
    if (parts.size() > ChatTemplate.MAX_LIST_SIZE) {
      throw new ELException("a text has more than " + ChatTemplate.MAX_LIST_SIZE + " parts");
    }
    return parts;
  }

  private static void checkLength(long characters) {
    if (characters > ChatTemplate.MAX_OUTPUT_BYTES) {
      throw new ELException(
          "a text has more than " + ChatTemplate.MAX_OUTPUT_BYTES + " characters");
    }
  }

  private static List<String> words(String text) {
    String bare = strip(text, null, true, true);
    int most = ChatTemplate.MAX_LIST_SIZE + 1;
    return bare.isEmpty() ? List.of() : bounded(Arrays.asList(bare.split("[\\s\\p{Z}]+", most)));
  }

  private static String join(String separator, Object[] parameters) {
    if (parameters.length != 1 || !(parameters[0] instanceof Iterable<?> parts)) {
      throw new MethodNotFoundException("str.join: expected a list");
    }
    StringJoiner joined = new StringJoiner(separator);
    for (Object part : parts) {
      String text = String.valueOf(part);
      checkLength((long) joined.length() + separator.length() + text.length());
      joined.add(text);
    }
    return joined.toString();
  }

  @Override
  public @Nullable Object getValue(
      ELContext context, @Nullable Object base, @Nullable Object property) {
    return null;
  }

  @Override
  public @Nullable Class<?> getType(
      ELContext context, @Nullable Object base, @Nullable Object property) {
    return null;
  }

  @Override
  public void setValue(
      ELContext context,
      @Nullable Object base,
      @Nullable Object property,
      @Nullable Object value) {}

  @Override
  public boolean isReadOnly(ELContext context, @Nullable Object base, @Nullable Object property) {
    return true;
  }

  @Override
  public Iterator<FeatureDescriptor> getFeatureDescriptors(
      ELContext context, @Nullable Object base) {
    return Collections.emptyIterator();
  }

  @Override
  public Class<?> getCommonPropertyType(ELContext context, @Nullable Object base) {
    return Object.class;
  }
}
