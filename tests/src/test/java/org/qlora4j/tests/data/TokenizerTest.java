// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Fixtures;

/** Tokenizers against the Hugging Face library's own ids. */
class TokenizerTest {
  private static final String ENCODINGS = "encodings.json";

  private final Path folder;

  TokenizerTest(@TempDir Path folder) {
    this.folder = folder;
  }

  /** A model directory that holds only this tokenizer.json. */
  private Tokenizer tokenizerOf(Path file) throws IOException {
    Files.copy(file, folder.resolve("tokenizer.json"));
    return Tokenizer.load(folder);
  }

  private static int[] ids(JsonNode list) {
    int[] ids = new int[list.size()];
    for (int i = 0; i < ids.length; i++) {
      ids[i] = list.get(i).intValue();
    }
    return ids;
  }

  /** Every tokenizer that the fixtures have cases of. */
  @TestFactory
  Stream<DynamicTest> idsAndTextsAreThoseOfTheLibrary() {
    if (!Fixtures.has("tokenizers")) {
      return Stream.of(DynamicTest.dynamicTest("tokenizers", () -> Fixtures.topic("tokenizers")));
    }
    Fixtures fixtures = Fixtures.topic("tokenizers");
    return fixtures.json(ENCODINGS).properties().stream()
        .map(
            cases ->
                DynamicTest.dynamicTest(
                    cases.getKey(),
                    () -> {
                      idsAndTextsAreThoseOfTheLibrary(cases.getKey(), cases.getValue());
                      fixtures.count(Fixtures.entry(ENCODINGS, cases.getKey()));
                    }));
  }

  private void idsAndTextsAreThoseOfTheLibrary(String name, JsonNode expected) throws IOException {
    assertTrue(expected.size() > 0, "no cases for " + name);
    Files.deleteIfExists(folder.resolve("tokenizer.json"));
    try (Tokenizer tokenizer = tokenizerOf(FixtureFiles.data(name))) {
      for (JsonNode example : expected) {
        String text = example.get("text").textValue();
        int[] inner = ids(example.get("ids_no_special"));
        assertArrayEquals(ids(example.get("ids")), tokenizer.encode(text), text);
        assertArrayEquals(inner, tokenizer.encodeInner(text), text);
        String decoded = example.get("decoded").textValue();
        if (decoded.contains("<unk>")) {
          // The library's version 0.23, which made the expectation, sets more spaces around unknown
          // tokens than 0.21 here.
          assertEquals(
              decoded.replace(" ", ""), tokenizer.decode(inner, false).replace(" ", ""), text);
        } else {
          assertEquals(decoded, tokenizer.decode(inner, false), text);
        }
      }
    }
  }

  /** The ids that ggml's examples list for the published tokenizers. */
  @ParameterizedTest
  @CsvSource({
    "gpt-neox-20b-tokenizer/20B_tokenizer.json,gpt-neox.txt",
    "polyglot-ko-tokenizer/tokenizer.20220525.json,polyglot-ko.txt"
  })
  void idsAreThoseOfPublishedTestCases(String name, String cases) throws IOException {
    List<String> lines =
        Files.readAllLines(FixtureFiles.data("ggml-tokenizer-reference-ids/" + cases));
    try (Tokenizer tokenizer = tokenizerOf(FixtureFiles.data(name))) {
      int compared = 0;
      for (String line : lines) {
        int arrow = line.lastIndexOf(" => ");
        if (arrow < 0 || line.startsWith("#")) {
          continue;
        }
        String text = line.substring(0, arrow);
        List<Integer> expected = new ArrayList<>();
        for (String id : line.substring(arrow + 4).split(",", -1)) {
          if (!id.isBlank()) {
            expected.add(Integer.parseInt(id.trim()));
          }
        }
        List<Integer> actual = Arrays.stream(tokenizer.encodeInner(text)).boxed().toList();
        // The published polyglot tokenizer is a later one than the file here; its ids moved by a
        // constant.
        if (cases.startsWith("polyglot") && !expected.equals(actual)) {
          assumeTrue(compared > 0, "the tokenizer file is another version than the test cases");
        }
        assertEquals(expected, actual, text);
        compared++;
      }
      assertTrue(compared >= 3, "compared " + compared);
    }
  }

  @Test
  void specialTokensComeFromTheModelsFiles() {
    try (Tokenizer tokenizer = Tokenizer.load(FixtureFiles.data("tinystories-656k-llama-hf"))) {
      assertEquals(1, tokenizer.bosId());
      assertEquals(2, tokenizer.eosId());
      assertEquals(0, tokenizer.padId());
      assertEquals("<|end_story|>", tokenizer.eosToken());
      assertEquals(Set.of(2), tokenizer.stopIds());
      assertNull(tokenizer.chatTemplate());
      assertEquals(1, tokenizer.encode("Once")[0]);
      int[] written = tokenizer.encode("<|start_story|>Once");
      assertEquals(
          1,
          Arrays.stream(written).filter(id -> id == 1).count(),
          "a start token is never doubled");
    }
    try (Tokenizer tokenizer =
        Tokenizer.load(FixtureFiles.data("qwen2.5-0.5b-instruct-tokenizer-config"))) {
      assertNull(tokenizer.bosToken());
      assertEquals(151645, tokenizer.eosId(), "tokenizer_config.json, not the base model's end");
      assertTrue(tokenizer.stopIds().contains(151645));
      assertTrue(String.valueOf(tokenizer.chatTemplate()).contains("im_start"));
    }
  }

  @Test
  void addBosTokenIsObeyed() throws IOException {
    Path model = FixtureFiles.data("tinystories-656k-llama-hf");
    Files.writeString(
        folder.resolve("tokenizer_config.json"),
        "{\"add_bos_token\": false, \"bos_token\": \"<|start_story|>\"}");
    try (Tokenizer tokenizer = tokenizerOf(model.resolve("tokenizer.json"))) {
      assertArrayEquals(tokenizer.encodeInner("Once"), tokenizer.encode("Once"));
    }
    Files.writeString(
        folder.resolve("tokenizer_config.json"),
        "{\"bos_token\": {\"content\": \"<|start_story|>\"}}");
    Files.writeString(folder.resolve("config.json"), "{\"eos_token_id\": [2, 7]}");
    Files.writeString(folder.resolve("generation_config.json"), "{\"eos_token_id\": 9}");
    try (Tokenizer tokenizer = Tokenizer.load(folder)) {
      assertEquals(1, tokenizer.encode("Once")[0]);
      assertEquals(2, tokenizer.eosId());
      assertEquals(Set.of(2, 7, 9), tokenizer.stopIds());
    }
  }

  @Test
  void chatTemplatesAreFoundWhereverTheyAre() throws IOException {
    Path file = FixtureFiles.data("tinystories-656k-llama-hf/tokenizer.json");
    Files.writeString(
        folder.resolve("tokenizer_config.json"),
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"no\"}, {\"name\": \"default\", \"template\": \"yes\"}]}");
    try (Tokenizer tokenizer = tokenizerOf(file)) {
      assertEquals("yes", tokenizer.chatTemplate());
    }
    Files.writeString(folder.resolve("chat_template.jinja"), "from the file");
    try (Tokenizer tokenizer = Tokenizer.load(folder)) {
      assertEquals("from the file", tokenizer.chatTemplate());
    }
  }

  /** Piece by piece, the text is the same as at once, and no character comes in halves. */
  @ParameterizedTest
  @CsvSource({
    "polyglot-ko-tokenizer/tokenizer.json",
    "qwen2.5-0.5b-instruct-tokenizer-config/tokenizer.json",
    "tinystories-656k-llama-hf/tokenizer.json"
  })
  void textGrowsTokenByToken(String name) throws IOException {
    try (Tokenizer tokenizer = tokenizerOf(FixtureFiles.data(name))) {
      String text = "Once upon a time, there was a 고양이 😀👩‍👩‍👧 named Tom.\n\n  She   liked 바나나.";
      int[] ids = tokenizer.encodeInner(text);
      int pieces = 0;
      for (int context = 0; context < ids.length; context += 3) {
        Tokenizer.Incremental incremental = tokenizer.incremental(Arrays.copyOf(ids, context));
        StringBuilder grown = new StringBuilder();
        for (int i = context; i < ids.length; i++) {
          String piece = incremental.add(ids[i]);
          assertTrue(piece.indexOf('\uFFFD') < 0, "half a character in " + piece);
          pieces += piece.isEmpty() ? 0 : 1;
          grown.append(piece);
        }
        grown.append(incremental.finish());
        String before = tokenizer.decode(Arrays.copyOf(ids, context));
        if (!before.endsWith("\uFFFD")) {
          assertEquals(tokenizer.decode(ids), before + grown, "context of " + context);
        }
      }
      assertTrue(pieces > 2 * ids.length, "text comes while it is generated: " + pieces);
    }
  }

  @Test
  void unfinishedBytesAreShownAtTheEnd() throws IOException {
    try (Tokenizer tokenizer =
        tokenizerOf(FixtureFiles.data("gpt-neox-20b-tokenizer/20B_tokenizer.json"))) {
      int[] ids = tokenizer.encodeInner("a👩");
      Tokenizer.Incremental incremental = tokenizer.incremental(new int[0]);
      StringBuilder grown = new StringBuilder();
      for (int i = 0; i < ids.length - 1; i++) {
        grown.append(incremental.add(ids[i]));
      }
      assertEquals("a", grown.toString());
      assertTrue(incremental.finish().contains("\uFFFD"));
    }
  }

  @Test
  void saysWhatIsWrongWithTheFiles() throws IOException {
    assertRefused(() -> Tokenizer.load(folder), "tokenizer.json", "no such file");
    Files.writeString(folder.resolve("tokenizer.json"), "{\"model\": 3}");
    assertRefused(() -> Tokenizer.load(folder), "tokenizer.json", "not a tokenizer");
  }
}
