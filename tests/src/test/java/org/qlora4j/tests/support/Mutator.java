// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/**
 * Bends valid inputs: bytes and lengths, numbers and brackets of texts, and, where the input is
 * JSON, its tree. The same random numbers give the same input.
 */
final class Mutator {
  private static final ObjectMapper JSON = new ObjectMapper();

  private static final long[] NUMBERS = {
    0,
    1,
    -1,
    2,
    7,
    8,
    63,
    64,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    1 << 24,
    Integer.MAX_VALUE,
    Integer.MIN_VALUE,
    1L << 31,
    1L << 32,
    100_000_000,
    1L << 40,
    1L << 53,
    Long.MAX_VALUE,
    Long.MIN_VALUE,
    Long.MAX_VALUE - 7
  };

  private static final List<String> TOKENS =
      List.of(
          "{",
          "}",
          "[",
          "]",
          "\"",
          "\\",
          ",",
          ":",
          "null",
          "true",
          "NaN",
          "1e999",
          "-0",
          "0x10",
          "\u0000",
          "\uFEFF",
          "\uFFFD",
          "\uD83D\uDE00",
          "%s",
          "../",
          "\n",
          "\r\n",
          "\t",
          "- ",
          "&a ",
          "*a",
          "!!java.lang.Runtime ",
          "<<: ",
          "{{",
          "}}",
          "{%",
          "%}",
          "{#",
          "{% for i in range(999) %}",
          "{% endfor %}",
          "{{ x * 999999 }}",
          "__metadata__");

  private final Random random;
  private final List<byte[]> seeds;

  Mutator(Random random, List<byte[]> seeds) {
    this.random = random;
    this.seeds = seeds;
  }

  byte[] next() {
    byte[] input = seeds.get(random.nextInt(seeds.size()));
    if (random.nextInt(3) > 0) {
      input = tree(input);
    }
    if (random.nextInt(3) > 0) {
      return input;
    }
    for (int i = 1 + random.nextInt(6); i > 0; i--) {
      input = bend(input);
    }
    return input;
  }

  /** Another tree where the input is JSON, else the input. */
  private byte[] tree(byte[] input) {
    JsonNode root;
    try {
      root = JSON.readTree(input);
    } catch (IOException e) {
      return input;
    }
    if (root == null || !root.isContainerNode()) {
      return input;
    }
    for (int i = 1 + random.nextInt(3); i > 0; i--) {
      change(root);
    }
    try {
      return JSON.writeValueAsBytes(root);
    } catch (JsonProcessingException e) {
      return input;
    }
  }

  private void change(JsonNode root) {
    List<JsonNode> containers = new ArrayList<>();
    collect(root, containers);
    JsonNode chosen = containers.get(random.nextInt(containers.size()));
    if (chosen instanceof ObjectNode object && !object.isEmpty()) {
      List<String> names = new ArrayList<>();
      object.fieldNames().forEachRemaining(names::add);
      String name = names.get(random.nextInt(names.size()));
      switch (random.nextInt(5)) {
        case 0 -> object.remove(name);
        case 1 -> object.set(name + TOKENS.get(random.nextInt(TOKENS.size())), object.get(name));
        default -> object.set(name, value(object.get(name)));
      }
    } else if (chosen instanceof ArrayNode array && !array.isEmpty()) {
      int index = random.nextInt(array.size());
      switch (random.nextInt(5)) {
        case 0 -> array.remove(index);
        case 1 -> array.insert(index, array.get(index));
        default -> array.set(index, value(array.get(index)));
      }
    }
  }

  private static void collect(JsonNode node, List<JsonNode> containers) {
    if (node.isContainerNode()) {
      containers.add(node);
      node.forEach(child -> collect(child, containers));
    }
  }

  private JsonNode value(JsonNode old) {
    JsonNodeFactory make = JsonNodeFactory.instance;
    return switch (random.nextInt(10)) {
      case 0 -> make.nullNode();
      case 1 -> make.booleanNode(random.nextBoolean());
      case 2 -> make.textNode(TOKENS.get(random.nextInt(TOKENS.size())));
      case 3 -> make.textNode("x".repeat(1 << random.nextInt(14)));
      case 4 -> make.arrayNode().add(old);
      case 5 -> make.objectNode().set("a", old);
      case 6 -> make.numberNode(random.nextGaussian() * Math.pow(10, random.nextInt(600) - 300));
      case 7 -> make.arrayNode();
      default -> make.numberNode(NUMBERS[random.nextInt(NUMBERS.length)]);
    };
  }

  private byte[] bend(byte[] input) {
    if (input.length == 0) {
      return TOKENS.get(random.nextInt(TOKENS.size())).getBytes(StandardCharsets.UTF_8);
    }
    int at = random.nextInt(input.length);
    int length = Math.min(input.length - at, 1 << random.nextInt(9));
    switch (random.nextInt(9)) {
      case 0 -> {
        byte[] changed = input.clone();
        changed[at] ^= (byte) (1 << random.nextInt(8));
        return changed;
      }
      case 1 -> {
        return Arrays.copyOf(input, at);
      }
      case 2 -> {
        return replace(input, at, length, new byte[0]);
      }
      case 3 -> {
        return replace(input, at, 0, Arrays.copyOfRange(input, at, at + length));
      }
      case 4 -> {
        String token = TOKENS.get(random.nextInt(TOKENS.size()));
        return replace(input, at, 0, token.getBytes(StandardCharsets.UTF_8));
      }
      case 5 -> {
        byte[] changed = input.clone();
        int width = random.nextBoolean() ? 8 : 4;
        int start = Math.max(0, Math.min(random.nextBoolean() ? 0 : at, input.length - width));
        byte[] number = number(width);
        System.arraycopy(number, 0, changed, start, Math.min(width, input.length - start));
        return changed;
      }
      case 6 -> {
        return digits(input, at);
      }
      case 7 -> {
        byte[] other = seeds.get(random.nextInt(seeds.size()));
        int from = other.length == 0 ? 0 : random.nextInt(other.length);
        return replace(input, at, length, Arrays.copyOfRange(other, from, other.length));
      }
      default -> {
        byte[] deep = new byte[1 << random.nextInt(14)];
        Arrays.fill(deep, (byte) "[{(\"' ".charAt(random.nextInt(6)));
        return replace(input, at, 0, deep);
      }
    }
  }

  private byte[] number(int width) {
    long value = NUMBERS[random.nextInt(NUMBERS.length)];
    ByteBuffer bytes = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(value);
    return Arrays.copyOf(bytes.array(), width);
  }

  /** Another number where the next digits are. */
  private byte[] digits(byte[] input, int from) {
    int start = from;
    while (start < input.length && !Character.isDigit(input[start])) {
      start++;
    }
    int end = start;
    while (end < input.length && Character.isDigit(input[end])) {
      end++;
    }
    String number = Long.toString(NUMBERS[random.nextInt(NUMBERS.length)]);
    return replace(input, start, end - start, number.getBytes(StandardCharsets.US_ASCII));
  }

  private static byte[] replace(byte[] input, int at, int length, byte[] by) {
    byte[] changed = new byte[input.length - length + by.length];
    System.arraycopy(input, 0, changed, 0, at);
    System.arraycopy(by, 0, changed, at, by.length);
    System.arraycopy(input, at + length, changed, at + by.length, input.length - at - length);
    return changed;
  }
}
