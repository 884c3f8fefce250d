// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.data.Tokenizer;

/**
 * A model's tokenizer as GGUF metadata, from its tokenizer.json. Two kinds can be said in GGUF:
 *
 * <ul>
 *   <li>{@code gpt2}: BPE over bytes (GPT-NeoX, Polyglot, Llama 3, Qwen 2), with its merges and the
 *       name of the rule that splits text before it;
 *   <li>{@code llama}: BPE over characters with bytes for what is not in the vocabulary (Llama 2).
 *       llama.cpp merges the neighbours whose union has the highest score, so a token's score is
 *       the negated rank of the first merge that makes it.
 * </ul>
 */
final class GgufTokenizer {
  private static final long MAX_BYTES = 256L << 20;

  /** Llama 3's splitting rule, and Qwen 2's, which differs in its numbers. */
  private static final String LLAMA3_SPLIT = split("\\p{N}{1,3}");

  private static final String QWEN2_SPLIT = split("\\p{N}");

  private static final Pattern BYTE = Pattern.compile("<0x[0-9A-F]{2}>");

  /** Below every score of a token that merges make. */
  private static final float UNREACHABLE = -1e9f;

  private static final int NORMAL = 1;
  private static final int UNKNOWN = 2;
  private static final int CONTROL = 3;
  private static final int USER_DEFINED = 4;
  private static final int UNUSED = 5;
  private static final int BYTE_TOKEN = 6;

  private final Path file;
  private final ObjectNode json;
  private final ObjectNode model;
  private final int vocabSize;
  private final Map<String, GgufValue> metadata = new LinkedHashMap<>();
  private final List<String> notes = new ArrayList<>();

  private GgufTokenizer(Path file, int vocabSize) {
    this.file = file;
    this.json = Json.readObject(file, MAX_BYTES);
    this.vocabSize = vocabSize;
    if (!(json.path("model") instanceof ObjectNode object)
        || !object.path("type").asText("BPE").equals("BPE")
        || !object.path("vocab").isObject()
        || !object.path("merges").isArray()) {
      throw wrong("model", "BPE with a vocab and merges", json.path("model").path("type").asText());
    }
    this.model = object;
  }

  /**
   * The keys, and lines about what GGUF cannot say.
   *
   * @param metadata by key
   * @param notes for the user
   */
  record Content(Map<String, GgufValue> metadata, List<String> notes) {}

  /**
   * Reads a model directory's tokenizer.
   *
   * @param vocabSize rows of the model's embedding
   */
  static Content read(Path modelDirectory, int vocabSize) {
    Path file = modelDirectory.resolve("tokenizer.json");
    try (Tokenizer tokenizer = Tokenizer.load(modelDirectory)) {
      GgufTokenizer made = new GgufTokenizer(file, vocabSize);
      made.fill(tokenizer, modelDirectory);
      return new Content(made.metadata, made.notes);
    }
  }

  private void fill(Tokenizer tokenizer, Path modelDirectory) {
    boolean characters = model.path("byte_fallback").asBoolean(false);
    checkNormalizer(characters);
    metadata.put("tokenizer.ggml.model", GgufValue.string(characters ? "llama" : "gpt2"));
    metadata.put("tokenizer.ggml.pre", GgufValue.string(characters ? "default" : byteSplit()));
    String unknown = model.path("unk_token").isTextual() ? model.get("unk_token").asText() : null;
    String[] tokens = new String[vocabSize];
    int[] types = new int[vocabSize];
    model
        .path("vocab")
        .properties()
        .forEach(
            entry -> {
              String token = entry.getKey();
              int id = id(token, entry.getValue());
              if (tokens[id] != null) {
                throw wrong("model.vocab", "one token for each id", "two for " + id);
              }
              tokens[id] = token;
              types[id] =
                  token.equals(unknown)
                      ? UNKNOWN
                      : characters && BYTE.matcher(token).matches() ? BYTE_TOKEN : NORMAL;
            });
    for (JsonNode added : json.path("added_tokens")) {
      String token = added.path("content").asText();
      int id = id(token, added.path("id"));
      tokens[id] = token;
      if (types[id] != UNKNOWN) {
        types[id] = added.path("special").asBoolean() ? CONTROL : USER_DEFINED;
      }
    }
    for (int id = 0; id < vocabSize; id++) {
      if (tokens[id] == null) {
        tokens[id] = "[PAD" + id + "]";
        types[id] = UNUSED;
      }
    }
    if (characters && Arrays.stream(types).filter(type -> type == BYTE_TOKEN).count() < 256) {
      notes.add(
          "the vocabulary has no tokens for bytes, without which llama.cpp cannot encode characters"
              + " that are not in it");
    }
    List<String[]> merges = merges();
    metadata.put("tokenizer.ggml.tokens", GgufValue.strings(Arrays.asList(tokens)));
    metadata.put("tokenizer.ggml.token_type", GgufValue.i32s(types));
    if (characters) {
      metadata.put("tokenizer.ggml.scores", GgufValue.f32s(scores(tokens, types, merges)));
    } else {
      metadata.put(
          "tokenizer.ggml.merges",
          GgufValue.strings(merges.stream().map(m -> m[0] + " " + m[1]).toList()));
    }
    specials(tokenizer, modelDirectory, unknown);
    if (characters) {
      metadata.put("tokenizer.ggml.add_space_prefix", GgufValue.bool(spacePrefix()));
    }
    String template = tokenizer.chatTemplate();
    if (template != null) {
      metadata.put("tokenizer.chat_template", GgufValue.string(template));
    }
  }

  private int id(String token, JsonNode id) {
    if (!id.isInt() || id.intValue() < 0 || id.intValue() >= vocabSize) {
      throw wrong(
          "token " + Text.quote(token),
          "an id below vocab_size " + vocabSize + " of config.json",
          Json.kind(id));
    }
    return id.intValue();
  }

  private List<String[]> merges() {
    List<String[]> merges = new ArrayList<>();
    for (JsonNode merge : model.path("merges")) {
      String[] pair;
      if (merge.isArray() && merge.size() == 2) {
        pair = new String[] {merge.get(0).asText(), merge.get(1).asText()};
      } else {
        pair = merge.asText().split(" ", -1);
      }
      if (pair.length != 2
          || pair[0].isEmpty()
          || pair[1].isEmpty()
          || (pair[0] + pair[1]).indexOf(' ') >= 0) {
        throw wrong("model.merges", "pairs of tokens without spaces", Text.quote(merge));
      }
      merges.add(pair);
    }
    return merges;
  }

  private static float[] scores(String[] tokens, int[] types, List<String[]> merges) {
    Map<String, Integer> ranks = new HashMap<>();
    for (int rank = 0; rank < merges.size(); rank++) {
      ranks.putIfAbsent(merges.get(rank)[0] + merges.get(rank)[1], rank);
    }
    float[] scores = new float[tokens.length];
    for (int id = 0; id < tokens.length; id++) {
      String token = tokens[id];
      Integer rank = ranks.get(token);
      if (types[id] == NORMAL && token.codePointCount(0, token.length()) > 1) {
        scores[id] = rank == null ? UNREACHABLE : -1f - rank;
      }
    }
    return scores;
  }

  private void specials(Tokenizer tokenizer, Path modelDirectory, @Nullable String unknown) {
    putId("bos", tokenizer.bosId());
    putId("eos", tokenizer.eosId());
    putId("padding", tokenizer.padId());
    JsonNode unknownId = unknown == null ? null : model.path("vocab").get(unknown);
    putId("unknown", unknownId == null ? null : unknownId.intValue());
    Integer bos = tokenizer.bosId();
    int[] probe = tokenizer.encode("a");
    metadata.put(
        "tokenizer.ggml.add_bos_token",
        GgufValue.bool(bos != null && probe.length > 1 && probe[0] == bos));
    Path configFile = modelDirectory.resolve("tokenizer_config.json");
    boolean addEos =
        Files.isRegularFile(configFile)
            && Json.readObject(configFile, MAX_BYTES).path("add_eos_token").asBoolean(false);
    metadata.put("tokenizer.ggml.add_eos_token", GgufValue.bool(addEos));
  }

  private void putId(String name, @Nullable Integer id) {
    if (id != null && id < vocabSize) {
      metadata.put("tokenizer.ggml." + name + "_token_id", GgufValue.u32(id));
    }
  }

  // ------------------------------------------------------------------ before BPE

  private void checkNormalizer(boolean characters) {
    for (JsonNode part : parts(json.path("normalizer"), "normalizers")) {
      String type = part.path("type").asText();
      boolean spaces =
          characters
              && (type.equals("Prepend")
                  ? part.path("prepend").asText().equals("\u2581")
                  : type.equals("Replace")
                      && part.path("pattern").path("String").asText().equals(" ")
                      && part.path("content").asText().equals("\u2581"));
      if (type.equals("NFC")) {
        notes.add(
            "the tokenizer brings text into Unicode's form NFC first, which llama.cpp does not:"
                + " give it text in NFC");
      } else if (!spaces) {
        throw wrong(
            "normalizer", "none, NFC, or the replacement of spaces", Text.quote(part.toString()));
      }
    }
  }

  private static List<JsonNode> parts(JsonNode node, String list) {
    if (node.isMissingNode() || node.isNull()) {
      return List.of();
    }
    if (!node.path("type").asText().equals("Sequence")) {
      return List.of(node);
    }
    List<JsonNode> parts = new ArrayList<>();
    node.path(list).forEach(parts::add);
    return parts;
  }

  /** Whether a space is set before a text, and that text is split in no way GGUF cannot say. */
  private boolean spacePrefix() {
    boolean prefix = false;
    for (JsonNode part : parts(json.path("normalizer"), "normalizers")) {
      prefix |= part.path("type").asText().equals("Prepend");
    }
    for (JsonNode part : parts(json.path("pre_tokenizer"), "pretokenizers")) {
      switch (part.path("type").asText()) {
        case "Metaspace" ->
            prefix |=
                part.has("prepend_scheme")
                    ? !part.path("prepend_scheme").asText().equals("never")
                    : part.path("add_prefix_space").asBoolean(true);
        case "Split" ->
            notes.add(
                "the tokenizer splits text by a rule of its own before BPE, which GGUF's llama"
                    + " tokenizer cannot say: tokens differ where a token of the vocabulary lies"
                    + " across such a split, for example at runs of spaces");
        default ->
            throw wrong("pre_tokenizer", "none, Metaspace or Split", Text.quote(part.toString()));
      }
    }
    return prefix;
  }

  /** llama.cpp's name of the rule that splits text before BPE over bytes. */
  private String byteSplit() {
    String rule = null;
    boolean bytes = false;
    for (JsonNode part : parts(json.path("pre_tokenizer"), "pretokenizers")) {
      JsonNode pattern = part.path("pattern");
      if (part.path("type").asText().equals("ByteLevel") && !bytes) {
        bytes = true;
        if (part.path("add_prefix_space").asBoolean(true)) {
          throw wrong("pre_tokenizer.add_prefix_space", "false", "true");
        }
        if (part.path("use_regex").asBoolean(true) && rule == null) {
          rule = "gpt-2";
        }
      } else if (part.path("type").asText().equals("Split")
          && pattern.path("String").isTextual()
          && part.path("behavior").asText().equals("Removed")) {
        notes.add(
            "the tokenizer takes the text "
                + Text.quote(pattern.path("String").textValue())
                + " away, which llama.cpp keeps");
      } else if (rule == null && pattern.path("Regex").asText().equals(LLAMA3_SPLIT)) {
        rule = "llama-bpe";
      } else if (rule == null && pattern.path("Regex").asText().equals(QWEN2_SPLIT)) {
        rule = "qwen2";
      } else {
        throw wrong(
            "pre_tokenizer",
            "the rules of GPT-2, Llama 3 or Qwen 2, which llama.cpp knows",
            Text.quote(part.toString()));
      }
    }
    if (!bytes || rule == null) {
      throw wrong("pre_tokenizer", "ByteLevel, or byte_fallback in model", "neither");
    }
    return rule;
  }

  private static String split(String numbers) {
    return "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
        + numbers
        + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  }

  private InputException wrong(String key, String expected, String found) {
    return new InputException(file + ": " + key + ": expected " + expected + ", found " + found);
  }
}
