// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import com.fasterxml.jackson.core.JsonLocation;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.train.TrainConfigKeys;

/**
 * A level of a study's configuration, read strictly: an unknown key is refused with the nearest
 * known one, and a wrong value with what was expected, what was found and where.
 */
public final class StudyYaml {
  private static final long MAX_BYTES = 1 << 20;
  private static final ObjectMapper YAML =
      YAMLMapper.builder(
              YAMLFactory.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build())
          .build();

  private final ObjectNode node;
  private final String where;

  private StudyYaml(ObjectNode node, String where) {
    this.node = node;
    this.where = where;
  }

  /**
   * Reads a file, then applies {@code key=value} settings in order; a key of a level below is
   * written {@code level.key}, a value is YAML.
   */
  public static StudyYaml read(Path file, List<String> settings) {
    JsonNode root = parse(Json.readText(file, MAX_BYTES), file.toString());
    if (!(root instanceof ObjectNode object)) {
      throw new InputException(file + ": expected `key: value` lines, found " + Json.kind(root));
    }
    for (String setting : settings) {
      set(object, setting);
    }
    return new StudyYaml(object, file.toString());
  }

  private static JsonNode parse(String text, String source) {
    try {
      JsonNode node = YAML.readTree(text);
      return node == null || node.isMissingNode() ? Json.newObject() : node;
    } catch (JsonProcessingException e) {
      JsonLocation location = e.getLocation();
      String message = String.valueOf(e.getOriginalMessage());
      int end = message.indexOf('\n');
      throw new InputException(
          source
              + (location == null ? "" : " line " + location.getLineNr())
              + ": not valid YAML: "
              + Text.oneLine(end < 0 ? message : message.substring(0, end)),
          e);
    }
  }

  private static void set(ObjectNode root, String setting) {
    int equals = setting.indexOf('=');
    if (equals < 1) {
      throw new InputException("--set: expected key=value, found " + Text.quote(setting));
    }
    String[] path = setting.substring(0, equals).strip().split("\\.", -1);
    ObjectNode level = root;
    for (int i = 0; i < path.length - 1; i++) {
      JsonNode below = level.get(path[i]);
      if (below != null && !(below instanceof ObjectNode)) {
        throw new InputException(
            "--set: " + Text.quote(path[i]) + " holds no keys, found " + Json.kind(below));
      }
      level = below == null ? level.putObject(path[i]) : (ObjectNode) below;
    }
    String value = setting.substring(equals + 1);
    if (value.isBlank()) {
      level.remove(path[path.length - 1]);
    } else {
      level.set(path[path.length - 1], parse(value, "--set " + setting.substring(0, equals)));
    }
  }

  /** The tree as YAML, with the keys in the order of the file. */
  public static String write(JsonNode node) {
    try {
      return YAML.writeValueAsString(node);
    } catch (JsonProcessingException e) {
      throw new IllegalStateException("a tree that cannot be written", e);
    }
  }

  /** Refuses keys that are none of these. */
  public StudyYaml allow(Set<String> keys) {
    for (String key : (Iterable<String>) node::fieldNames) {
      if (!keys.contains(key)) {
        String near = Text.nearest(key, keys);
        throw new InputException(
            where
                + ": unknown key "
                + Text.quote(key)
                + (near == null
                    ? "; known are " + String.join(", ", keys.stream().sorted().toList())
                    : "; did you mean " + near + "?"));
      }
    }
    return this;
  }

  /** What it was read from, for messages. */
  public String where() {
    return where;
  }

  /** Whether the key is there and not null. */
  public boolean has(String key) {
    return value(key) != null;
  }

  private @Nullable JsonNode value(String key) {
    JsonNode value = node.get(key);
    return value == null || value.isNull() ? null : value;
  }

  private JsonNode required(String key, String expected) {
    JsonNode value = value(key);
    if (value == null) {
      throw new InputException(
          where + ": " + key + ": expected " + expected + ", found no such key");
    }
    return value;
  }

  /** The tree below a key, a copy. */
  public ObjectNode object(String key) {
    JsonNode value = required(key, "keys below it");
    if (value instanceof ObjectNode object) {
      return object.deepCopy();
    }
    throw wrong(key, "keys below it");
  }

  /** The tree itself, a copy. */
  public ObjectNode tree() {
    return node.deepCopy();
  }

  /** The level below a key. */
  public StudyYaml level(String key) {
    return new StudyYaml(object(key), where + ": " + key);
  }

  /**
   * The keys of a training configuration below a key, by their canonical names; two names of one
   * key are left for the training's own reader to refuse.
   */
  public ObjectNode trainingKeys(String key) {
    return canonical(object(key));
  }

  /** The tree with the canonical names of a training configuration's keys. */
  public static ObjectNode canonical(ObjectNode keys) {
    ObjectNode canonical = Json.newObject();
    keys.properties()
        .forEach(
            entry -> {
              String name = TrainConfigKeys.canonical(entry.getKey());
              canonical.set(keys.has(name) ? entry.getKey() : name, entry.getValue());
            });
    return canonical;
  }

  /** The level below a key, without any where the key is not there. */
  public StudyYaml optionalLevel(String key) {
    return has(key) ? level(key) : new StudyYaml(Json.newObject(), where + ": " + key);
  }

  /** The levels of a list, each named by its place. */
  public List<StudyYaml> levels(String key) {
    JsonNode value = required(key, "a list");
    if (!(value instanceof ArrayNode array) || array.isEmpty()) {
      throw wrong(key, "a list with at least one entry");
    }
    List<StudyYaml> levels = new ArrayList<>();
    for (int i = 0; i < array.size(); i++) {
      if (!(array.get(i) instanceof ObjectNode object)) {
        throw new InputException(
            where
                + ": "
                + key
                + "["
                + (i + 1)
                + "]: expected keys, found "
                + Json.kind(array.get(i)));
      }
      levels.add(new StudyYaml(object.deepCopy(), where + ": " + key + "[" + (i + 1) + "]"));
    }
    return levels;
  }

  /** A text that must be there. */
  public String text(String key) {
    JsonNode value = required(key, "a text");
    if (!value.isValueNode() || value.asText().isBlank()) {
      throw wrong(key, "a text");
    }
    return value.asText();
  }

  /** A text, or another where the key is not there. */
  public String text(String key, String otherwise) {
    return has(key) ? text(key) : otherwise;
  }

  /** A path that must be there. */
  public Path path(String key) {
    try {
      return Path.of(text(key));
    } catch (InvalidPathException e) {
      throw wrong(key, "a path");
    }
  }

  /** An integer between two bounds, or another where the key is not there. */
  public int integer(String key, int otherwise, int least, int most) {
    JsonNode value = value(key);
    if (value == null) {
      return otherwise;
    }
    if (!value.isIntegralNumber()
        || !value.canConvertToInt()
        || value.intValue() < least
        || value.intValue() > most) {
      throw wrong(key, "an integer of " + least + " to " + most);
    }
    return value.intValue();
  }

  /** A number between two bounds, or another where the key is not there. */
  public double number(String key, double otherwise, double least, double most) {
    JsonNode value = value(key);
    if (value == null) {
      return otherwise;
    }
    double number = value.isNumber() ? value.doubleValue() : Double.NaN;
    if (!(number >= least && number <= most)) {
      throw wrong(key, "a number of " + least + " to " + most);
    }
    return number;
  }

  /** Texts of a list; a single one is a list of one; empty where the key is not there. */
  public List<String> texts(String key) {
    JsonNode value = value(key);
    List<String> texts = new ArrayList<>();
    if (value == null) {
      return texts;
    }
    for (JsonNode text : value.isArray() ? value : List.of(value)) {
      if (!text.isValueNode() || text.asText().isBlank()) {
        throw wrong(key, "a text or a list of texts");
      }
      texts.add(text.asText());
    }
    return texts;
  }

  /** The error that says what was expected of a key's value. */
  public InputException wrong(String key, String expected) {
    JsonNode value = value(key);
    return new InputException(
        where
            + ": "
            + key
            + ": expected "
            + expected
            + ", found "
            + (value == null
                ? "nothing"
                : value.isValueNode() ? Text.quote(value.asText()) : Json.kind(value)));
  }
}
