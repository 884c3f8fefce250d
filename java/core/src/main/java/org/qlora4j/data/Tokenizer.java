// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * A model's tokenizer, as its tokenizer.json says (the Hugging Face library through DJL), with the
 * special tokens that tokenizer_config.json, special_tokens_map.json and config.json name. Not
 * thread-safe.
 *
 * <p>Truncation and padding in tokenizer.json are switched off. A padding token never masks
 * anything, so a model whose padding token is its end token still learns to stop.
 */
public final class Tokenizer implements AutoCloseable {
  private static final long MAX_CONFIG_BYTES = 64L << 20;

  /** The library's messages repeat parts of the file. */
  private static final int LONGEST_MESSAGE = 400;

  /**
   * Holds a letter that every vocabulary can spell; what the tokenizer adds around it is its
   * template.
   */
  private static final String PROBE = "a";

  /** Texts that rarely share a token with what follows them. */
  private static final String[] ANCHORS = {"\n", ".", "a"};

  private final HuggingFaceTokenizer delegate;
  private final int[] prefix;
  private final @Nullable Integer bosId;
  private final @Nullable Integer eosId;
  private final @Nullable Integer padId;
  private final @Nullable String bosToken;
  private final @Nullable String eosToken;
  private final Set<Integer> stopIds;
  private final @Nullable String chatTemplate;

  private Tokenizer(HuggingFaceTokenizer delegate, Companions files) {
    this.delegate = delegate;
    this.bosToken = files.token("bos_token");
    this.eosToken = files.token("eos_token");
    this.bosId = files.id(bosToken, "bos_token_id");
    this.eosId = files.id(eosToken, "eos_token_id");
    this.padId = files.id(files.token("pad_token"), "pad_token_id");
    this.prefix = prefix(files.config.get("add_bos_token"));
    this.stopIds = files.stopIds(eosId);
    this.chatTemplate = files.chatTemplate();
  }

  /** Whether a model directory has a tokenizer. */
  public static boolean exists(Path modelDir) {
    return Files.isRegularFile(modelDir.resolve("tokenizer.json"));
  }

  /** Loads the tokenizer of a model directory. */
  public static Tokenizer load(Path modelDir) {
    Path file = modelDir.resolve("tokenizer.json");
    if (!Files.isRegularFile(file)) {
      throw new InputException(
          modelDir
              + ": expected tokenizer.json, found no such file"
              + (Files.exists(modelDir.resolve("tokenizer.model"))
                  ? "; tokenizer.model alone is not read: save the tokenizer with the fast (tokenizers) library"
                  : ""));
    }
    TokenizerJson.check(file);
    HuggingFaceTokenizer delegate;
    try {
      delegate =
          HuggingFaceTokenizer.builder()
              .optTokenizerPath(file)
              .optTruncation(false)
              .optPadding(false)
              .build();
    } catch (IOException | RuntimeException e) {
      throw new InputException(
          file
              + ": not a tokenizer: "
              + Text.cut(Text.oneLine(String.valueOf(e.getMessage())), LONGEST_MESSAGE),
          e);
    }
    boolean made = false;
    try {
      Tokenizer tokenizer = new Tokenizer(delegate, new Companions(modelDir, file));
      made = true;
      return tokenizer;
    } finally {
      if (!made) {
        delegate.close();
      }
    }
  }

  private int[] prefix(@Nullable JsonNode addBos) {
    if (addBos != null && addBos.isBoolean()) {
      return addBos.booleanValue() && bosId != null ? new int[] {bosId} : new int[0];
    }
    int[] whole = ids(PROBE, true);
    int[] raw = ids(PROBE, false);
    for (int start = 0; start + raw.length <= whole.length; start++) {
      if (Arrays.equals(whole, start, start + raw.length, raw, 0, raw.length)) {
        return Arrays.copyOf(whole, start);
      }
    }
    return new int[0];
  }

  private int[] ids(String text, boolean addSpecialTokens) {
    long[] ids = delegate.encode(text, addSpecialTokens, false).getIds();
    int[] narrow = new int[ids.length];
    for (int i = 0; i < ids.length; i++) {
      narrow[i] = Math.toIntExact(ids[i]);
    }
    return narrow;
  }

  /**
   * The ids of a text that starts a sequence: with the tokens in front that the tokenizer's files
   * ask for (a beginning-of-sequence token for Llama), but never twice, and without an end token.
   */
  public int[] encode(String text) {
    int[] raw = encodeInner(text);
    int[] front = prefix;
    if (front.length == 0
        || (raw.length >= front.length
            && Arrays.equals(front, 0, front.length, raw, 0, front.length))) {
      return raw;
    }
    int[] ids = Arrays.copyOf(front, front.length + raw.length);
    System.arraycopy(raw, 0, ids, front.length, raw.length);
    return ids;
  }

  /** The ids of the text alone; names of special tokens inside it become those tokens. */
  public int[] encodeInner(String text) {
    return ids(text, false);
  }

  /**
   * The ids of a text that goes on after other text. Tokenizers that set a space before every text
   * (Llama's) would set one in the middle here, so the text is encoded behind a short one whose
   * tokens are then taken off again.
   */
  public int[] encodeContinuation(String text) {
    for (String anchor : ANCHORS) {
      int[] before = encodeInner(anchor);
      int[] both = encodeInner(anchor + text);
      if (both.length >= before.length
          && Arrays.equals(before, 0, before.length, both, 0, before.length)) {
        return Arrays.copyOfRange(both, before.length, both.length);
      }
    }
    return encodeInner(text);
  }

  /** The text of the ids without special tokens. */
  public String decode(int[] ids) {
    return decode(ids, true);
  }

  /** The text of the ids. */
  public String decode(int[] ids, boolean skipSpecialTokens) {
    long[] wide = new long[ids.length];
    for (int i = 0; i < ids.length; i++) {
      wide[i] = ids[i];
    }
    return delegate.decode(wide, skipSpecialTokens);
  }

  /** Decodes token by token what follows `context`; see {@link Incremental}. */
  public Incremental incremental(int[] context) {
    return new Incremental(context);
  }

  /** Beginning-of-sequence token, or null. */
  public @Nullable Integer bosId() {
    return bosId;
  }

  /** The end-of-sequence token to train, or null. */
  public @Nullable Integer eosId() {
    return eosId;
  }

  /** Padding token, or null. For information: nothing here pads. */
  public @Nullable Integer padId() {
    return padId;
  }

  /** Text of the beginning-of-sequence token, or null. */
  public @Nullable String bosToken() {
    return bosToken;
  }

  /** Text of the end-of-sequence token, or null. */
  public @Nullable String eosToken() {
    return eosToken;
  }

  /**
   * Tokens that end a generated text: those of the tokenizer, config.json and
   * generation_config.json.
   */
  public Set<Integer> stopIds() {
    return stopIds;
  }

  /** The model's chat template in Jinja, or null. */
  public @Nullable String chatTemplate() {
    return chatTemplate;
  }

  @Override
  public void close() {
    delegate.close();
  }

  /**
   * Text that grows token by token. A token may hold part of a character, and a decoder may strip a
   * leading space, so a piece is given out only once the text before it no longer changes: bytes of
   * an unfinished character wait for the rest.
   */
  public final class Incremental {
    /** Enough context for decoders that look at the tokens before, such as byte fallback. */
    private static final int CONTEXT = 8;

    private int[] ids;
    private int length;
    private int prefixStart;
    private int givenOut;

    private Incremental(int[] context) {
      int from = Math.max(0, context.length - CONTEXT);
      this.ids = Arrays.copyOfRange(context, from, context.length + 64);
      this.length = context.length - from;
      this.givenOut = length;
    }

    /** Adds a token and returns the text that is certain now, often one word, sometimes nothing. */
    public String add(int id) {
      if (length == ids.length) {
        ids = Arrays.copyOf(ids, 2 * length);
      }
      ids[length++] = id;
      String whole = decode(Arrays.copyOfRange(ids, prefixStart, length));
      if (whole.endsWith("\uFFFD")) {
        return "";
      }
      return give(whole);
    }

    /** The rest, with replacement characters where bytes are missing. */
    public String finish() {
      return give(decode(Arrays.copyOfRange(ids, prefixStart, length)));
    }

    private String give(String whole) {
      String before = decode(Arrays.copyOfRange(ids, prefixStart, givenOut));
      if (whole.length() <= before.length()) {
        return "";
      }
      prefixStart = givenOut;
      givenOut = length;
      return whole.substring(before.length());
    }
  }

  /** The files beside tokenizer.json, and its list of added tokens. */
  private static final class Companions {
    private final Path modelDir;
    private final ObjectNode config;
    private final ObjectNode map;
    private final ObjectNode model;
    private final ObjectNode generation;
    private final Map<String, Integer> addedTokens;

    Companions(Path modelDir, Path tokenizerFile) {
      this.modelDir = modelDir;
      this.config = optional("tokenizer_config.json");
      this.map = optional("special_tokens_map.json");
      this.model = optional("config.json");
      this.generation = optional("generation_config.json");
      this.addedTokens = addedTokens(tokenizerFile);
    }

    private ObjectNode optional(String name) {
      Path file = modelDir.resolve(name);
      return Files.isRegularFile(file) ? Json.readObject(file, MAX_CONFIG_BYTES) : Json.newObject();
    }

    /** A special token's text: a string, or an object with `content`. */
    @Nullable String token(String key) {
      for (ObjectNode json : new ObjectNode[] {config, map}) {
        JsonNode value = json.get(key);
        if (value != null && value.isObject()) {
          value = value.get("content");
        }
        if (value != null && value.isTextual() && !value.textValue().isEmpty()) {
          return value.textValue();
        }
      }
      return null;
    }

    @Nullable Integer id(@Nullable String token, String configKey) {
      if (token != null) {
        Integer id = addedTokens.get(token);
        if (id != null) {
          return id;
        }
      }
      JsonNode value = model.path(configKey);
      if (value.isArray()) {
        value = value.path(0);
      }
      return value.isInt() && value.intValue() >= 0 ? value.intValue() : null;
    }

    Set<Integer> stopIds(@Nullable Integer eosId) {
      Set<Integer> ids = new LinkedHashSet<>();
      if (eosId != null) {
        ids.add(eosId);
      }
      for (ObjectNode json : new ObjectNode[] {model, generation}) {
        JsonNode value = json.path("eos_token_id");
        for (JsonNode id : value.isArray() ? value : List.of(value)) {
          if (id.isInt() && id.intValue() >= 0) {
            ids.add(id.intValue());
          }
        }
      }
      return Set.copyOf(ids);
    }

    /**
     * chat_template.jinja first, then the string in tokenizer_config.json, then its entry named
     * "default".
     */
    @Nullable String chatTemplate() {
      Path file = modelDir.resolve("chat_template.jinja");
      if (Files.isRegularFile(file)) {
        return Json.readText(file, MAX_CONFIG_BYTES);
      }
      JsonNode template = config.path("chat_template");
      if (template.isTextual()) {
        return template.textValue();
      }
      for (JsonNode named : template) {
        if (named.path("name").asText().equals("default") && named.path("template").isTextual()) {
          return named.path("template").textValue();
        }
      }
      return null;
    }

    /**
     * Streams tokenizer.json for its `added_tokens`; the vocabulary beside it can have many
     * megabytes.
     */
    private static Map<String, Integer> addedTokens(Path file) {
      Map<String, Integer> tokens = new HashMap<>();
      try (JsonParser parser = new JsonFactory().createParser(file.toFile())) {
        parser.nextToken();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
          boolean wanted = parser.currentName().equals("added_tokens");
          parser.nextToken();
          if (!wanted || parser.currentToken() != JsonToken.START_ARRAY) {
            parser.skipChildren();
            continue;
          }
          // After an object has been read, the next token starts another or ends the list.
          while (parser.nextToken() == JsonToken.START_OBJECT) {
            readAddedToken(parser, tokens);
          }
        }
        return tokens;
      } catch (JsonProcessingException e) {
        throw new InputException(
            file + ": not valid JSON: " + Text.oneLine(e.getOriginalMessage()), e);
      } catch (IOException e) {
        throw new InputException("cannot read " + file + ": " + e, e);
      }
    }

    private static void readAddedToken(JsonParser parser, Map<String, Integer> tokens)
        throws IOException {
      String content = null;
      int id = -1;
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        JsonToken value = parser.nextToken();
        if (field.equals("content") && value == JsonToken.VALUE_STRING) {
          content = parser.getText();
        } else if (field.equals("id") && value == JsonToken.VALUE_NUMBER_INT) {
          id = parser.getIntValue();
        } else {
          parser.skipChildren();
        }
      }
      if (content != null && id >= 0) {
        tokens.put(content, id);
      }
    }
  }
}
