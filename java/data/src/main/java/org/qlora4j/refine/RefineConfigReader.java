// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import com.fasterxml.jackson.core.JsonLocation;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.rows.RowFormat;

/**
 * Reads a {@link RefineConfig} from YAML; every mistake gives one line with the key, what was found
 * and what is expected.
 */
public final class RefineConfigReader {
  private static final long MAX_CONFIG_BYTES = 1 << 20;
  private static final YAMLMapper YAML =
      new YAMLMapper(
          YAMLFactory.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build());

  /**
   * One key.
   *
   * @param defaultText empty where the key is required or unset by default
   */
  public record Key(String name, String defaultText, String meaning) {}

  /** All keys, in the order of the documentation. */
  public static final List<Key> KEYS =
      List.of(
          new Key(
              "input",
              "",
              "file of collected posts, or a list of files: .jsonl, .csv, .tsv, also with .gz or .xz behind (required)"),
          new Key("format", "auto", "auto (by the file's name), jsonl, csv or tsv"),
          new Key("text_field", "text", "field with the post's text"),
          new Key("title_field", "", "field with its title"),
          new Key("keywords_field", "", "field with its keywords: a list, or a text with commas"),
          new Key(
              "group_field",
              "",
              "field whose equal values keep posts on one side of the held-out split, for example the author"),
          new Key("max_row_bytes", "1048576", "longest row"),
          new Key(
              "max_bad_rows",
              "0.05",
              "largest share of rows that cannot be read; more end the run"),
          new Key("output", "", "file of training examples (required)"),
          new Key("held_out", "", "file of held-out examples"),
          new Key(
              "held_out_fraction",
              "0.1",
              "share of the groups that is held out, where held_out is set"),
          new Key(
              "held_out_shared_words",
              "8",
              "a training example that shares a run of so many words with a held-out one is dropped; 0 for never"),
          new Key("seed", "1", "of the held-out split"),
          new Key("samples", "3", "dropped rows that the report shows for each reason"),
          new Key("html", "auto", "which texts are HTML: auto, always or never"),
          new Key("emoji", "floods", "which emoji go: floods (two or more in a row), all or keep"),
          new Key(
              "disclosures",
              "remove",
              "sentences that say the post was paid for: remove, drop_post or keep"),
          new Key("disclosure_patterns", "[]", "further regular expressions of such sentences"),
          new Key(
              "personal_data",
              "drop_sentence",
              "sentences with phone numbers and the like: drop_sentence or mask"),
          new Key("personal_data_mask", "***", "what personal_data: mask writes instead"),
          new Key("min_words", "10", "fewest words of a text"),
          new Key("max_words", "300", "most words of a text"),
          new Key(
              "too_long", "cut", "a longer text is cut behind a sentence (cut), or dropped (drop)"),
          new Key("min_hangul", "0.7", "smallest share of Hangul among the letters"),
          new Key("min_distinct_words", "0.4", "smallest share of distinct words"),
          new Key(
              "sentiment_model",
              "",
              "model of data train-sentiment; without one no text is judged"),
          new Key("min_positive", "0.5", "smallest probability that the text is positive"),
          new Key(
              "near_duplicate",
              "0.7",
              "smallest share of common shingles (Jaccard) of a near duplicate; 0 looks for none"),
          new Key(
              "prompt",
              "제목: {title} / 키워드: {keywords} / 후기:",
              "template with {title}, {keywords} or {first_words}"),
          new Key("keywords", "3", "keywords of a prompt at most"),
          new Key(
              "first_words", "4", "words for {first_words}; the completion goes on behind them"),
          new Key("completion_prefix", "' '", "what a completion begins with"),
          new Key("threads", "0", "threads; 0 for one a core. The result does not depend on it"));

  private final String source;
  private final Map<String, JsonNode> values = new HashMap<>();

  private RefineConfigReader(String source) {
    this.source = source;
  }

  /**
   * Reads a YAML file, then applies `key=value` overrides in order; a value is YAML, and none puts
   * the key back to its default.
   *
   * @throws InputException for anything that is not as documented
   */
  public static RefineConfig read(Path file, List<String> overrides) {
    RefineConfigReader reader = new RefineConfigReader(file.toString());
    reader.addAll(parse(Json.readText(file, MAX_CONFIG_BYTES), file.toString()));
    for (String override : overrides) {
      int equals = override.indexOf('=');
      if (equals <= 0) {
        throw new InputException("--set: expected KEY=VALUE, found " + Text.quote(override));
      }
      String key = override.substring(0, equals).strip();
      String value = override.substring(equals + 1);
      reader.add(key, parse(value, "--set " + key), "--set");
      if (value.isBlank()) {
        reader.values.remove(key);
      }
    }
    return reader.config();
  }

  private static JsonNode parse(String yaml, String source) {
    try {
      return YAML.readTree(yaml);
    } catch (JsonProcessingException e) {
      JsonLocation location = e.getLocation();
      throw new InputException(
          source
              + (location == null ? "" : ":" + location.getLineNr())
              + ": not valid YAML: "
              + Text.oneLine(e.getOriginalMessage()),
          e);
    }
  }

  private void addAll(JsonNode node) {
    if (!node.isObject()) {
      throw new InputException(source + ": expected keys and values, found " + Json.kind(node));
    }
    node.properties().forEach(field -> add(field.getKey(), field.getValue(), source));
  }

  private void add(String key, JsonNode value, String from) {
    List<String> names = KEYS.stream().map(Key::name).toList();
    if (!names.contains(key)) {
      String nearest = Text.nearest(key, names);
      throw new InputException(
          from
              + ": unknown key "
              + Text.quote(key)
              + (nearest == null
                  ? "; see data refine --help-keys"
                  : "; did you mean " + nearest + "?"));
    }
    values.put(key, value);
  }

  private RefineConfig config() {
    RefineConfig.Input input =
        new RefineConfig.Input(
            paths("input"),
            format(),
            text("text_field"),
            optional("title_field"),
            optional("keywords_field"),
            optional("group_field"),
            (int) whole("max_row_bytes", 1024, 64 << 20),
            number("max_bad_rows", 0, 1));
    String heldOut = optional("held_out");
    RefineConfig.Output output =
        new RefineConfig.Output(
            path("output", text("output")),
            heldOut == null ? null : path("held_out", heldOut),
            number("held_out_fraction", 0.0001, 0.9),
            (int) whole("held_out_shared_words", 0, 1000),
            whole("seed", Long.MIN_VALUE, Long.MAX_VALUE),
            (int) whole("samples", 0, 100));
    RefineConfig.Cleaning cleaning =
        new RefineConfig.Cleaning(
            choice("html", RefineConfig.Html.class),
            choice("emoji", RefineConfig.Emoji.class),
            choice("disclosures", RefineConfig.DisclosureRule.class),
            patterns(),
            choice("personal_data", RefineConfig.PersonalDataRule.class),
            text("personal_data_mask"));
    return checked(
        new RefineConfig(
            input, output, cleaning, filters(), prompt(), (int) whole("threads", 0, 1024)));
  }

  private RefineConfig.Filters filters() {
    String model = optional("sentiment_model");
    double near = number("near_duplicate", 0, 1);
    if (near > 0 && near < 0.3) {
      throw new InputException(
          source + ": near_duplicate: expected 0, or a share of 0.3 to 1, found " + near);
    }
    RefineConfig.Filters filters =
        new RefineConfig.Filters(
            (int) whole("min_words", 1, 1_000_000),
            (int) whole("max_words", 1, 1_000_000),
            choice("too_long", RefineConfig.TooLong.class),
            number("min_hangul", 0, 1),
            number("min_distinct_words", 0, 1),
            model == null ? null : path("sentiment_model", model),
            number("min_positive", 0, 1),
            near == 0 ? 2 : near);
    if (filters.minWords() > filters.maxWords()) {
      throw new InputException(
          source
              + ": min_words: expected at most max_words ("
              + filters.maxWords()
              + "), found "
              + filters.minWords());
    }
    return filters;
  }

  private RefineConfig.Prompt prompt() {
    RefineConfig.Prompt prompt =
        new RefineConfig.Prompt(
            text("prompt"),
            (int) whole("keywords", 1, 20),
            (int) whole("first_words", 1, 100),
            text("completion_prefix"));
    PromptTemplate.check(source, prompt.template());
    return prompt;
  }

  private RefineConfig checked(RefineConfig config) {
    Path training = config.output().training().toAbsolutePath().normalize();
    Path heldOut = config.output().heldOut();
    if (heldOut != null && heldOut.toAbsolutePath().normalize().equals(training)) {
      throw new InputException(source + ": held_out: expected another file than output");
    }
    for (Path file : config.input().files()) {
      Path in = file.toAbsolutePath().normalize();
      if (in.equals(training)
          || (heldOut != null && in.equals(heldOut.toAbsolutePath().normalize()))) {
        throw new InputException(source + ": output: expected another file than the input " + file);
      }
    }
    return config;
  }

  private @Nullable RowFormat format() {
    String name = text("format");
    if (name.equals("auto")) {
      return null;
    }
    return choice("format", RowFormat.class);
  }

  private List<Pattern> patterns() {
    List<Pattern> patterns = new ArrayList<>();
    for (String regex : texts("disclosure_patterns")) {
      try {
        patterns.add(Pattern.compile(regex));
      } catch (PatternSyntaxException e) {
        throw new InputException(
            source
                + ": disclosure_patterns: expected a regular expression, found "
                + Text.quote(regex),
            e);
      }
    }
    return patterns;
  }

  private List<Path> paths(String key) {
    List<String> names = texts(key);
    if (names.isEmpty()) {
      throw new InputException(source + ": expected the key " + key + ", found none");
    }
    List<Path> paths = new ArrayList<>();
    for (String name : names) {
      paths.add(path(key, name));
    }
    return paths;
  }

  private Path path(String key, String name) {
    try {
      return Path.of(name);
    } catch (InvalidPathException e) {
      throw new InputException(source + ": " + key + ": not a path: " + Text.quote(name), e);
    }
  }

  private List<String> texts(String key) {
    JsonNode value = value(key);
    if (value == null) {
      return List.of();
    }
    if (value.isTextual()) {
      return List.of(value.textValue());
    }
    List<String> texts = new ArrayList<>();
    if (value.isArray()) {
      for (JsonNode element : value) {
        if (!element.isTextual()) {
          throw wrong(key, "a text or a list of texts", element);
        }
        texts.add(element.textValue());
      }
      return texts;
    }
    throw wrong(key, "a text or a list of texts", value);
  }

  private String text(String key) {
    String text = optional(key);
    if (text == null) {
      throw new InputException(source + ": expected the key " + key + ", found none");
    }
    return text;
  }

  private @Nullable String optional(String key) {
    JsonNode value = value(key);
    if (value == null) {
      return null;
    }
    if (!value.isTextual()) {
      throw wrong(key, "a text", value);
    }
    return value.textValue();
  }

  private double number(String key, double least, double most) {
    JsonNode value = value(key);
    if (value == null
        || !value.isNumber()
        || !(value.doubleValue() >= least && value.doubleValue() <= most)) {
      throw wrong(key, "a number from " + least + " to " + most, value);
    }
    return value.doubleValue();
  }

  private long whole(String key, long least, long most) {
    JsonNode value = value(key);
    if (value == null
        || !value.isIntegralNumber()
        || !value.canConvertToLong()
        || value.longValue() < least
        || value.longValue() > most) {
      throw wrong(
          key,
          least == Long.MIN_VALUE
              ? "a whole number"
              : "a whole number from " + least + " to " + most,
          value);
    }
    return value.longValue();
  }

  private <E extends Enum<E>> E choice(String key, Class<E> type) {
    String name = text(key);
    List<String> names = new ArrayList<>();
    for (E constant : type.getEnumConstants()) {
      String lower = constant.name().toLowerCase(Locale.ROOT);
      if (lower.equals(name)) {
        return constant;
      }
      names.add(lower);
    }
    throw new InputException(
        source
            + ": "
            + key
            + ": expected "
            + String.join(", ", names)
            + ", found "
            + Text.quote(name));
  }

  /** What was written, or the default; null where there is neither. */
  private @Nullable JsonNode value(String key) {
    JsonNode written = values.get(key);
    if (written != null && !written.isNull()) {
      return written;
    }
    for (Key known : KEYS) {
      if (known.name().equals(key) && !known.defaultText().isEmpty()) {
        return known.defaultText().contains("{") || known.defaultText().startsWith("*")
            ? YAML.getNodeFactory().textNode(known.defaultText())
            : parse(known.defaultText(), key);
      }
    }
    return null;
  }

  private InputException wrong(String key, String expected, @Nullable JsonNode found) {
    return new InputException(
        source
            + ": "
            + key
            + ": expected "
            + expected
            + ", found "
            + (found == null ? "nothing" : Json.kind(found)));
  }
}
