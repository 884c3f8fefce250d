// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * The keys of a JSON object that is not trusted, each checked when it is read: a value that is
 * missing, of a wrong kind or out of range gives one line with its key.
 */
final class ConfigKeys {
  private final ObjectNode json;
  private final String source;
  private final String prefix;

  /**
   * @param source says in messages where the object came from
   */
  ConfigKeys(ObjectNode json, String source) {
    this(json, source, "");
  }

  private ConfigKeys(ObjectNode json, String source, String prefix) {
    this.json = json;
    this.source = source;
    this.prefix = prefix;
  }

  /** Whether the key is there, though it may be null. */
  boolean has(String key) {
    return json.has(key);
  }

  /** Whether the key is there and not null. */
  boolean hasValue(String key) {
    return json.hasNonNull(key);
  }

  /** The object under a key, or null where it is missing or null. */
  @Nullable ConfigKeys object(String key) {
    JsonNode value = json.get(key);
    if (value == null || value.isNull()) {
      return null;
    }
    if (!(value instanceof ObjectNode object)) {
      throw wrong(key, "an object or null", Json.kind(value));
    }
    return new ConfigKeys(object, source, prefix + key + ".");
  }

  /** A text; null for {@code otherwise} makes it required. */
  String text(String key, @Nullable String otherwise) {
    JsonNode value = json.get(key);
    if (value == null || value.isNull()) {
      if (otherwise == null) {
        throw wrong(key, "a text", "nothing");
      }
      return otherwise;
    }
    if (!value.isTextual()) {
      throw wrong(key, "a text", Json.kind(value));
    }
    return value.textValue();
  }

  boolean bool(String key, boolean otherwise) {
    JsonNode value = json.get(key);
    if (value == null || value.isNull()) {
      return otherwise;
    }
    if (!value.isBoolean()) {
      throw wrong(key, "true or false", Json.kind(value));
    }
    return value.booleanValue();
  }

  /**
   * An integer in a range; one that is missing is {@code otherwise}, or an error where that is
   * below {@code least}.
   */
  int integer(String key, int otherwise, int least, int most) {
    JsonNode value = json.get(key);
    if (value == null || value.isNull()) {
      if (otherwise < least) {
        throw wrong(key, "an integer of " + least + " to " + most, "nothing");
      }
      return otherwise;
    }
    if (!value.isIntegralNumber()
        || !value.canConvertToInt()
        || value.intValue() < least
        || value.intValue() > most) {
      throw wrong(key, "an integer of " + least + " to " + most, Json.kind(value));
    }
    return value.intValue();
  }

  double number(String key, double otherwise, double least, double most) {
    JsonNode value = json.get(key);
    return value == null || value.isNull() ? otherwise : number(key, value, least, most);
  }

  /** A number that must be there. */
  double number(String key, double least, double most) {
    JsonNode value = json.get(key);
    if (value == null || value.isNull()) {
      throw wrong(key, "a number", "nothing");
    }
    return number(key, value, least, most);
  }

  /** {@code count} numbers in a list that must be there. */
  List<Float> numbers(String key, int count, double least, double most) {
    JsonNode value = json.get(key);
    if (value == null || !value.isArray() || value.size() != count) {
      throw wrong(
          key,
          "a list of " + count + " numbers",
          value != null && value.isArray()
              ? value.size() + " of them"
              : value == null ? "nothing" : Json.kind(value));
    }
    List<Float> numbers = new ArrayList<>(count);
    for (JsonNode number : value) {
      numbers.add((float) number(key, number, least, most));
    }
    return numbers;
  }

  private double number(String key, JsonNode value, double least, double most) {
    if (!value.isNumber() || !(value.doubleValue() >= least && value.doubleValue() <= most)) {
      throw wrong(
          key,
          least == -Double.MAX_VALUE ? "a finite number" : "a number of " + least + " to " + most,
          Json.kind(value));
    }
    return value.doubleValue();
  }

  /** Texts of a list, or null where the key is missing or null. */
  @Nullable List<String> texts(String key) {
    JsonNode value = json.get(key);
    if (value == null || value.isNull()) {
      return null;
    }
    List<String> texts = new ArrayList<>();
    for (JsonNode text : value.isArray() ? value : List.of(value)) {
      if (!text.isTextual()) {
        throw wrong(key, "a list of texts", Json.kind(value));
      }
      texts.add(text.textValue());
    }
    return texts;
  }

  /** A token id or null. */
  @Nullable Integer token(String key, @Nullable Integer otherwise) {
    JsonNode value = json.get(key);
    if (value == null) {
      return otherwise;
    }
    // Llama 3 chat models list several; the first is the one that was trained as the end.
    return value.isNull() ? null : tokenIds(key, value).get(0);
  }

  /** A token id, a list of them, or null for none. */
  List<Integer> tokens(String key, List<Integer> otherwise) {
    JsonNode value = json.get(key);
    if (value == null) {
      return otherwise;
    }
    return value.isNull() ? List.of() : tokenIds(key, value);
  }

  private List<Integer> tokenIds(String key, JsonNode value) {
    List<Integer> ids = new ArrayList<>();
    for (JsonNode id : value.isArray() ? value : List.of(value)) {
      // -1 stands for "none" in some older configs.
      if (!id.isIntegralNumber() || !id.canConvertToInt() || id.intValue() < -1) {
        throw wrong(key, "a token id or a list of them", Json.kind(value));
      }
      ids.add(id.intValue());
    }
    if (ids.isEmpty()) {
      throw wrong(key, "a token id or a list of them", "an empty list");
    }
    return ids;
  }

  /** The first key whose value is an object, or null. */
  @Nullable String firstObject() {
    for (var entry : json.properties()) {
      if (entry.getValue().isObject()) {
        return entry.getKey();
      }
    }
    return null;
  }

  /** The error for a text that is none of those expected. */
  InputException wrongText(String key, String expected, String found) {
    return wrong(key, expected, Text.quote(found));
  }

  /** The error for a value. */
  InputException wrong(String key, String expected, String found) {
    return new InputException(
        source + ": " + prefix + key + ": expected " + expected + ", found " + found);
  }
}
