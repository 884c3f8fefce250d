// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.data.ChatTemplate;
import org.qlora4j.data.Example;
import org.qlora4j.data.Example.Message;
import org.qlora4j.data.ExampleEncoder;
import org.qlora4j.data.TokenizedExample;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.tests.support.FixtureFiles;

/** Which tokens are learned, and that training sees a prompt as generation does. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class ExampleEncoderTest {
  private static final int END = 2;

  private final Tokenizer stories = Tokenizer.load(FixtureFiles.data("tinystories-656k-llama-hf"));
  private final Tokenizer qwen =
      Tokenizer.load(FixtureFiles.data("qwen2.5-0.5b-instruct-tokenizer-config"));
  private final Path folder;

  ExampleEncoderTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @AfterAll
  void close() {
    stories.close();
    qwen.close();
  }

  private static ExampleEncoder encoder(
      Tokenizer tokenizer, int length, boolean onInputs, boolean addEos) {
    return new ExampleEncoder(
        tokenizer, ChatTemplate.of("tokenizer", tokenizer), length, onInputs, addEos);
  }

  private static TokenizedExample encode(ExampleEncoder encoder, Example example) {
    return Objects.requireNonNull(encoder.encode(example));
  }

  /** The ids that are learned. */
  private static int[] learned(TokenizedExample example) {
    for (int i = 0; i < example.ids().length; i++) {
      int label = example.labels()[i];
      assertTrue(
          label == TokenizedExample.IGNORED || label == example.ids()[i],
          "a label is its own token");
    }
    return Arrays.stream(example.labels())
        .filter(label -> label != TokenizedExample.IGNORED)
        .toArray();
  }

  private static int[] concat(int[]... parts) {
    return Arrays.stream(parts).flatMapToInt(Arrays::stream).toArray();
  }

  @Test
  void aTextIsLearnedWithItsEnd() {
    TokenizedExample example =
        encode(encoder(stories, 100, false, true), new Example.Text("t", "Once upon a time"));
    assertArrayEquals(concat(stories.encode("Once upon a time"), new int[] {END}), example.ids());
    assertEquals(1, example.ids()[0], "it starts with the beginning-of-sequence token, once");
    assertArrayEquals(example.ids(), learned(example));
    assertEquals(
        example.ids().length - 1, example.labelTokens(), "nothing predicts the first token");
    TokenizedExample open =
        encode(encoder(stories, 100, false, false), new Example.Text("t", "Once upon a time"));
    assertArrayEquals(stories.encode("Once upon a time"), open.ids());
    TokenizedExample ended =
        encode(encoder(stories, 100, false, true), new Example.Text("t", "Once<|end_story|>"));
    assertEquals(
        1,
        Arrays.stream(ended.ids()).filter(id -> id == END).count(),
        "an end that is there is not doubled");
  }

  @Test
  void ofACompletionOnlyTheCompletionIsLearned() {
    Example example = new Example.Completion("t", "Tom had a red", " ball. He was happy.");
    TokenizedExample encoded = encode(encoder(stories, 100, false, true), example);
    int[] prompt = stories.encode("Tom had a red");
    assertArrayEquals(
        prompt, Arrays.copyOf(encoded.ids(), prompt.length), "the prompt is what generation gets");
    assertEquals(
        "Tom had a red ball. He was happy.",
        stories.decode(encoded.ids()).strip().replace("<|start_story|>", "").strip());
    int[] learned = learned(encoded);
    assertEquals(encoded.ids().length - prompt.length, learned.length);
    assertEquals(END, learned[learned.length - 1], "the model learns to stop");
    assertArrayEquals(
        encoded.ids(),
        learned(encode(encoder(stories, 100, true, true), example)),
        "train_on_inputs");
  }

  /**
   * "unbeliev" + "able" is one word whose tokens span the border: the prompt's own tokens stay, the
   * rest is encoded apart.
   */
  @Test
  void aTokenAcrossTheBorderDoesNotChangeThePrompt() {
    Tokenizer[] tokenizers = {stories, qwen};
    int spanning = 0;
    for (Tokenizer tokenizer : tokenizers) {
      for (String[] parts :
          new String[][] {
            {"unbeliev", "able"}, {"Once up", "on a time"}, {"고양", "이가"}, {"He sa", "id:"}
          }) {
        int[] prompt = tokenizer.encode(parts[0]);
        int[] whole = tokenizer.encode(parts[0] + parts[1]);
        boolean spans =
            whole.length < prompt.length
                || !Arrays.equals(whole, 0, prompt.length, prompt, 0, prompt.length);
        TokenizedExample encoded =
            encode(
                encoder(tokenizer, 100, false, true),
                new Example.Completion("t", parts[0], parts[1]));
        assertArrayEquals(prompt, Arrays.copyOf(encoded.ids(), prompt.length), parts[0]);
        int[] learned = learned(encoded);
        assertEquals(encoded.ids().length - prompt.length, learned.length);
        if (spans) {
          spanning++;
          assertArrayEquals(
              tokenizer.encodeContinuation(parts[1]),
              Arrays.copyOf(learned, learned.length - 1),
              parts[1]);
          assertEquals(
              tokenizer.decode(whole), tokenizer.decode(encoded.ids()), "no space between");
        }
      }
    }
    assertTrue(spanning >= 2, "the case was met " + spanning + " times");
  }

  @Test
  void tooLongSequencesLoseTheirEndAndItsToken() {
    ExampleEncoder encoder = encoder(stories, 8, false, true);
    TokenizedExample cut =
        encode(
            encoder,
            new Example.Completion("t", "Tom had", " a ball and a dog and a cat and a car."));
    assertEquals(8, cut.ids().length);
    assertTrue(
        Arrays.stream(cut.ids()).noneMatch(id -> id == END), "a cut text does not teach to stop");
    assertEquals(1, encoder.truncated());
    assertNull(
        encoder.encode(
            new Example.Completion("t", "One two three four five six seven eight nine", " ten")));
    assertEquals(1, encoder.dropped());
    assertNull(
        encoder(stories, 8, false, false).encode(new Example.Text("t", "")),
        "nothing to learn in no text");
  }

  @Test
  void aConversationTeachesWhatTheAssistantSays() {
    List<Message> messages =
        List.of(
            new Message("system", "Be brief."),
            new Message("user", "2+2?"),
            new Message("assistant", "4"),
            new Message("user", "안녕?"),
            new Message("assistant", "네, 안녕하세요!"));
    ExampleEncoder encoder = encoder(qwen, 1000, false, true);
    TokenizedExample encoded = encode(encoder, new Example.Chat("t", messages));
    String whole = ChatTemplate.of("tokenizer", qwen).render(messages, false);
    assertArrayEquals(
        qwen.encodeInner(whole),
        encoded.ids(),
        "the ids of the whole text, as transformers has them");
    assertEquals("4<|im_end|>\n네, 안녕하세요!<|im_end|>\n", qwen.decode(learned(encoded), false));
    int[] prompt = encoder.encodeChatPrompt(messages.subList(0, 4));
    assertArrayEquals(
        prompt,
        Arrays.copyOf(encoded.ids(), prompt.length),
        "generation starts where learning did");
    assertArrayEquals(
        encoded.ids(),
        learned(encode(encoder(qwen, 1000, true, true), new Example.Chat("t", messages))));
  }

  private static final List<Message> TWO_TURNS =
      List.of(
          new Message("user", "2+2?"),
          new Message("assistant", "4"),
          new Message("user", "Sure?"),
          new Message("assistant", "Yes."));

  private ExampleEncoder withTemplate(Tokenizer tokenizer, String template) throws IOException {
    Path file = folder.resolve("t.jinja");
    Files.writeString(file, template);
    return new ExampleEncoder(
        tokenizer, ChatTemplate.of(file.toString(), tokenizer), 1000, false, true);
  }

  /**
   * The same turns with and without generation blocks: the blocks say what is learned, here not the
   * line end that prefixes would count to the answer.
   */
  @Test
  void generationBlocksSayWhatIsLearned() throws IOException {
    String start = "{% for m in messages %}<|im_start|>{{ m.role }}\n";
    String end =
        "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    TokenizedExample plain =
        encode(
            withTemplate(qwen, start + "{{ m.content }}<|im_end|>" + end),
            new Example.Chat("t", TWO_TURNS));
    ExampleEncoder marked =
        withTemplate(
            qwen,
            start
                + "{% if m.role == 'assistant' %}{%- generation -%}{{ m.content }}<|im_end|>"
                + "{%- endgeneration -%}{% else %}{{ m.content }}<|im_end|>{% endif %}"
                + end);
    TokenizedExample blocks = encode(marked, new Example.Chat("t", TWO_TURNS));
    assertArrayEquals(plain.ids(), blocks.ids(), "the marks leave no trace");
    assertEquals("4<|im_end|>\nYes.<|im_end|>\n", qwen.decode(learned(plain), false));
    assertEquals("4<|im_end|>Yes.<|im_end|>", qwen.decode(learned(blocks), false));
    int[] prompt = marked.encodeChatPrompt(TWO_TURNS.subList(0, 3));
    assertArrayEquals(prompt, Arrays.copyOf(blocks.ids(), prompt.length));
    assertRefused(
        () -> marked.encode(new Example.Chat("t", List.of(new Message("user", "\uFDD0")))),
        "U+FDD0");
  }

  /** The template writes the start token and the tokenizer would add it: it is there once. */
  @Test
  void aTemplatesStartTokenIsNotDoubled() throws IOException {
    ExampleEncoder encoder =
        withTemplate(
            stories,
            "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
                + "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
                + "{% if add_generation_prompt %}assistant: {% endif %}");
    assertEquals(1, stories.encode("Hello")[0], "the tokenizer adds it");
    TokenizedExample encoded = encode(encoder, new Example.Chat("t", TWO_TURNS));
    assertEquals(1, encoded.ids()[0]);
    assertEquals(1, Arrays.stream(encoded.ids()).filter(id -> id == 1).count());
    int[] prompt = encoder.encodeChatPrompt(TWO_TURNS.subList(0, 1));
    assertEquals(1, Arrays.stream(prompt).filter(id -> id == 1).count());
    assertEquals(1, prompt[0]);
  }

  /** Where the padding token is the end token, the end is still learned: nothing is padded. */
  @Test
  void theEndIsLearnedWhereItIsThePaddingToken() throws IOException {
    Path model = Files.createDirectories(folder.resolve("pad-is-eos"));
    Files.copy(
        FixtureFiles.data("tinystories-656k-llama-hf/tokenizer.json"),
        model.resolve("tokenizer.json"));
    Files.writeString(
        model.resolve("tokenizer_config.json"),
        "{\"bos_token\": \"<|start_story|>\", \"eos_token\": \"<|end_story|>\", "
            + "\"pad_token\": \"<|end_story|>\"}");
    try (Tokenizer tokenizer = Tokenizer.load(model)) {
      assertEquals(END, tokenizer.padId());
      assertEquals(END, tokenizer.eosId());
      ExampleEncoder encoder = encoder(tokenizer, 100, false, true);
      for (Example example :
          List.of(
              new Example.Text("t", "Once upon a time"),
              new Example.Completion("t", "Once upon", " a time"),
              new Example.Chat("t", TWO_TURNS))) {
        int[] learned = learned(encode(encoder, example));
        assertEquals(END, learned[learned.length - 1], example.toString());
      }
    }
  }

  @Test
  void thePlainTemplateTeachesToStopToo() {
    List<Message> messages =
        List.of(
            new Message("user", "Hello"),
            new Message("assistant", "Hi Tom"),
            new Message("user", "Bye"),
            new Message("assistant", "So long"));
    TokenizedExample encoded =
        encode(encoder(stories, 100, false, true), new Example.Chat("t", messages));
    assertEquals(
        1,
        encoded.ids()[0],
        "the tokenizer's start token, which the plain template does not write");
    int[] learned = learned(encoded);
    assertEquals(2, Arrays.stream(learned).filter(id -> id == END).count());
    assertEquals(END, learned[learned.length - 1]);
    for (int turns = 1; turns < messages.size(); turns += 2) {
      int[] prompt =
          encoder(stories, 100, false, true).encodeChatPrompt(messages.subList(0, turns));
      assertArrayEquals(
          prompt,
          Arrays.copyOf(encoded.ids(), prompt.length),
          "generation starts where learning did");
    }
    assertArrayEquals(
        encoded.ids(),
        learned(encode(encoder(stories, 100, true, true), new Example.Chat("t", messages))));
  }

  /** A template that leaves out the reasoning of earlier turns, as newer models' do. */
  @Test
  void whereEarlierTurnsAreRewrittenOnlyTheLastIsLearned() throws IOException {
    Path template = folder.resolve("t.jinja");
    Files.writeString(
        template,
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and not loop.last %}short{% else %}{{ m.content }}{% endif %};"
            + "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}");
    List<Message> messages =
        List.of(
            new Message("user", "a"),
            new Message("assistant", "long one"),
            new Message("user", "b"),
            new Message("assistant", "last"));
    ExampleEncoder encoder =
        new ExampleEncoder(qwen, ChatTemplate.of(template.toString(), qwen), 100, false, true);
    assertEquals("last;", qwen.decode(learned(encode(encoder, new Example.Chat("t", messages)))));
    Files.writeString(
        template,
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>>{% endif %}");
    ExampleEncoder wrong =
        new ExampleEncoder(qwen, ChatTemplate.of(template.toString(), qwen), 100, false, true);
    assertRefused(
        () -> wrong.encode(new Example.Chat("file:3", messages)), "file:3", "chat_template");
  }

  @Test
  void aTextFileIsCutIntoSequences() throws IOException {
    Path file = folder.resolve("a.txt");
    String text = "Once upon a time there was a dog.\nHe was happy.\n".repeat(20);
    Files.writeString(file, text);
    List<TokenizedExample> sequences = encoder(stories, 32, false, true).encodeTextFile(file);
    List<Integer> ids = new ArrayList<>();
    for (int i = 0; i < sequences.size(); i++) {
      TokenizedExample sequence = sequences.get(i);
      assertTrue(sequence.ids().length == 32 || i == sequences.size() - 1);
      assertArrayEquals(sequence.ids(), sequence.labels());
      Arrays.stream(sequence.ids()).forEach(ids::add);
    }
    assertEquals(
        Arrays.stream(concat(stories.encode(text), new int[] {END})).boxed().toList(),
        ids,
        "every token, in order, once");
    Files.writeString(file, "");
    assertRefused(
        () -> encoder(stories, 32, false, false).encodeTextFile(file),
        "a.txt",
        "at least two tokens");
  }

  @Test
  void anEndTokenMustBeKnownToBeLearned() throws IOException {
    Files.copy(
        FixtureFiles.data("tinystories-656k-llama-hf/tokenizer.json"),
        folder.resolve("tokenizer.json"));
    try (Tokenizer nameless = Tokenizer.load(folder)) {
      assertRefused(() -> encoder(nameless, 10, false, true), "add_eos", "end-of-sequence");
      encoder(nameless, 10, false, false);
    }
  }
}
