// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonLocation;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;

/**
 * Strict JSON: one value, no duplicate keys, valid UTF-8; every failure is one line that names the
 * file and the place.
 */
public final class Json {
  private static final ObjectMapper MAPPER =
      JsonMapper.builder(
              JsonFactory.builder()
                  .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                  // Python's json.dumps writes NaN and Infinity bare; they are legal where a number
                  // is and refused where it matters.
                  .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS)
                  .build())
          .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
          .build();

  private Json() {}

  /** The object in a file of at most `maxBytes` bytes. */
  public static ObjectNode readObject(Path file, long maxBytes) {
    return object(readText(file, maxBytes), file.toString());
  }

  /** The object that `text` holds; `source` says in messages where it came from. */
  public static ObjectNode object(String text, String source) {
    JsonNode node = value(text, source);
    if (node instanceof ObjectNode object) {
      return object;
    }
    throw new InputException(source + ": expected a JSON object, found " + kind(node));
  }

  /** The JSON value that `text` holds. */
  public static JsonNode value(String text, String source) {
    try {
      JsonNode node = MAPPER.readTree(text);
      if (node == null || node.isMissingNode()) {
        throw new InputException(source + ": expected JSON, found nothing");
      }
      return node;
    } catch (JsonProcessingException e) {
      throw new InputException(
          source + ": not valid JSON" + place(e) + ": " + Text.oneLine(e.getOriginalMessage()), e);
    }
  }

  /** A file's text, which must be UTF-8 and at most `maxBytes` long. */
  public static String readText(Path file, long maxBytes) {
    byte[] bytes;
    try {
      long size = Files.size(file);
      if (size > maxBytes) {
        throw new InputException(file + ": expected at most " + maxBytes + " bytes, found " + size);
      }
      bytes = Files.readAllBytes(file);
    } catch (NoSuchFileException e) {
      throw new InputException("no such file: " + file, e);
    } catch (IOException e) {
      throw new InputException("cannot read " + file + ": " + e, e);
    }
    String text = Text.utf8(bytes);
    if (text == null) {
      throw new InputException(file + ": expected UTF-8 text, found bytes that are not");
    }
    return text;
  }

  /**
   * The value as text, keys in the order they were put, indented by two spaces, with a line end.
   */
  public static String pretty(JsonNode node) {
    try {
      return MAPPER.writerWithDefaultPrettyPrinter().writeValueAsString(node) + "\n";
    } catch (JsonProcessingException e) {
      throw new IllegalStateException("a JSON tree that cannot be written", e);
    }
  }

  /** The value on one line without a line end. */
  public static String compact(JsonNode node) {
    try {
      return MAPPER.writeValueAsString(node);
    } catch (JsonProcessingException e) {
      throw new IllegalStateException("a JSON tree that cannot be written", e);
    }
  }

  /** An empty object to fill. */
  public static ObjectNode newObject() {
    return MAPPER.createObjectNode();
  }

  /** "a string", "an object", ... for messages. */
  public static String kind(JsonNode node) {
    return switch (node.getNodeType()) {
      case ARRAY -> "a list";
      case OBJECT -> "an object";
      case STRING -> "the text " + Text.quote(node.textValue());
      case BOOLEAN, NUMBER -> node.asText();
      case NULL -> "null";
      default -> "nothing";
    };
  }

  private static String place(JsonProcessingException e) {
    JsonLocation location = e.getLocation();
    return location == null
        ? ""
        : " at line " + location.getLineNr() + ", column " + location.getColumnNr();
  }
}
