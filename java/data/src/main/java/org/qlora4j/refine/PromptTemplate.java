// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;

/** Makes a prompt and its completion of a cleaned post. Thread-safe. */
final class PromptTemplate {
  private static final Pattern PLACEHOLDER = Pattern.compile("\\{([a-z_]+)\\}");
  private static final Set<String> KNOWN = Set.of("title", "keywords", "first_words");

  private final RefineConfig.Prompt settings;

  PromptTemplate(RefineConfig.Prompt settings) {
    this.settings = settings;
  }

  /** A prompt and what follows it. */
  record Pair(String prompt, String completion, String text) {}

  /** Checks a template. */
  static void check(String source, String template) {
    Matcher matcher = PLACEHOLDER.matcher(template);
    boolean any = false;
    while (matcher.find()) {
      any = true;
      if (!KNOWN.contains(matcher.group(1))) {
        throw new InputException(
            source
                + ": prompt: expected {title}, {keywords} or {first_words}, found "
                + Text.quote(matcher.group()));
      }
    }
    if (!any) {
      throw new InputException(
          source
              + ": prompt: expected a template with {title}, {keywords} or {first_words}, found "
              + Text.quote(template));
    }
  }

  /** Whether a post with this title, which may be empty, needs keywords. */
  boolean needsKeywords(String title) {
    String template = settings.template();
    return template.contains("{keywords}") || (template.contains("{title}") && title.isEmpty());
  }

  /**
   * The example of a text, or null where its template needs what it does not have.
   *
   * @param title empty where the post has none: then it is made of the first two keywords
   * @param keywords the post's own, or the nouns of its text
   */
  @Nullable Pair of(String text, String title, List<String> keywords) {
    String template = settings.template();
    boolean needsTitle = template.contains("{title}");
    List<String> chosen = keywords.subList(0, Math.min(settings.keywords(), keywords.size()));
    String heading =
        !title.isEmpty() ? title : String.join(" ", chosen.subList(0, Math.min(2, chosen.size())));
    if ((needsTitle && heading.isEmpty())
        || (template.contains("{keywords}") && chosen.isEmpty())) {
      return null;
    }
    String completion = text;
    String firstWords = "";
    if (template.contains("{first_words}")) {
      List<String> words = Arrays.asList(text.split(" ", -1));
      if (words.size() <= settings.firstWords()) {
        return null;
      }
      firstWords = String.join(" ", words.subList(0, settings.firstWords()));
      completion = String.join(" ", words.subList(settings.firstWords(), words.size()));
    }
    String prompt = filled(template, heading, String.join(", ", chosen), firstWords);
    return new Pair(prompt, settings.completionPrefix() + completion, text);
  }

  /** In one pass, so that braces inside the values are left alone. */
  private static String filled(String template, String title, String keywords, String firstWords) {
    return PLACEHOLDER
        .matcher(template)
        .replaceAll(
            found ->
                Matcher.quoteReplacement(
                    switch (found.group(1)) {
                      case "title" -> title;
                      case "keywords" -> keywords;
                      default -> firstWords;
                    }));
  }

  /** Keywords as a field holds them: with commas, semicolons or as hashtags. */
  static List<String> keywordsOf(String field) {
    List<String> keywords = new ArrayList<>();
    String separator = field.contains(",") || field.contains(";") ? "[,;]" : "\\s*#";
    for (String part : field.split(separator, -1)) {
      String keyword = part.replace("#", "").strip();
      if (!keyword.isEmpty() && !keywords.contains(keyword)) {
        keywords.add(keyword);
      }
    }
    return keywords;
  }
}
