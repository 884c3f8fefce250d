// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.fuzz;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.InputException;
import org.qlora4j.data.ChatTemplate;
import org.qlora4j.data.Example.Message;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.refine.RefineConfigReader;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Fuzz;
import org.qlora4j.train.TrainConfigReader;

/**
 * Texts that users and models bring: training and refinement configurations, examples, the
 * companions of a tokenizer, chat templates.
 *
 * <p>Allocation: a factor of 1,000 for a byte, for trees and messages, and 16 MB for buffers of the
 * YAML parser and the reader of lines; chat templates are bounded by their own limits on output and
 * loops.
 */
class TextFuzzTest {
  private static final long BUFFERS = 16 << 20;
  private static final long PER_BYTE = 1000;

  private final Path folder;

  TextFuzzTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  private static final String TRAINING =
      """
      model: base
      method: qlora
      train_file: [a.jsonl, 'b.txt']
      output_dir: out # a comment
      learning_rate: 2e-4
      lora_target_modules: [q_proj, v_proj]
      optimizer_memory_budget: 25%
      optim: paged_adamw_8bit
      sample_prompts:
        - "one"
        - two
      """;

  @Test
  void trainingConfigurations() throws IOException {
    Fuzz.of("training YAML", BUFFERS, PER_BYTE)
        .run(
            List.of(
                Files.readAllBytes(FixtureFiles.project("examples/quickstart.yaml")),
                bytes(TRAINING),
                bytes(
                    "{\"model\": \"m\", \"train_file\": \"t.txt\", \"output_dir\": \"o\", \"r\": 8}")),
            input ->
                TrainConfigReader.parse(
                    new String(input, StandardCharsets.UTF_8), "f.yaml", List.of()));
  }

  @Test
  void overrides() {
    Fuzz.of("--set", BUFFERS, PER_BYTE)
        .run(
            List.of(bytes("lora_r=8"), bytes("lora_target_modules=[q_proj, v_proj]")),
            input ->
                TrainConfigReader.parse(
                    TRAINING, "f.yaml", List.of(new String(input, StandardCharsets.UTF_8))));
  }

  @Test
  void refinementConfigurations() {
    Path file = folder.resolve("r.yaml");
    Fuzz.of("refinement YAML", BUFFERS, PER_BYTE)
        .run(
            List.of(
                bytes("input: [a.jsonl]\noutput: b.jsonl\nprompt: '{keywords}'\nmin_words: 3\n")),
            input -> {
              Files.write(file, input);
              RefineConfigReader.read(file, List.of());
            });
  }

  @Test
  void examples() {
    List<byte[]> seeds =
        List.of(
            bytes("{\"text\": \"one\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n"),
            bytes(
                "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, "
                    + "{\"role\": \"assistant\", \"content\": \"b\"}]}"),
            bytes("{\"instruction\": \"a\", \"input\": \"b\", \"output\": \"c\"}"));
    ExampleReader reader = new ExampleReader("alpaca");
    for (String name : List.of("e.jsonl", "e.json")) {
      Path file = folder.resolve(name);
      List<byte[]> own =
          name.equals("e.jsonl")
              ? seeds
              : seeds.subList(1, 3).stream()
                  .map(row -> bytes("[" + new String(row, StandardCharsets.UTF_8) + "]"))
                  .toList();
      Fuzz.of("examples " + name, BUFFERS, PER_BYTE)
          .run(
              own,
              input -> {
                Files.write(file, input);
                reader.read(file);
              });
    }
  }

  /** The small files beside a tokenizer; its own file is read by a library in native code. */
  @Test
  void tokenizerCompanions() throws IOException {
    Path model = FixtureFiles.project("examples/model");
    Files.copy(model.resolve("tokenizer.json"), folder.resolve("tokenizer.json"));
    for (String name :
        List.of("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")) {
      byte[] valid = Files.readAllBytes(model.resolve(name));
      Files.write(folder.resolve(name), valid);
      List<byte[]> seeds = new ArrayList<>(List.of(valid));
      if (name.equals("tokenizer_config.json")) {
        seeds.add(
            bytes(
                "{\"add_bos_token\": true, \"bos_token\": {\"content\": \"<s>\"}, "
                    + "\"chat_template\": [{\"name\": \"default\", \"template\": \"{{ messages }}\"}]}"));
      }
      Fuzz.of(name, BUFFERS, PER_BYTE)
          .run(
              seeds,
              input -> {
                Files.write(folder.resolve(name), input);
                try (Tokenizer tokenizer = Tokenizer.load(folder)) {
                  tokenizer.encode("안녕");
                  ChatTemplate.of("tokenizer", tokenizer);
                }
              });
      Files.write(folder.resolve(name), valid);
    }
  }

  @Test
  void tokenizerFiles() throws IOException {
    Path model = FixtureFiles.project("examples/model");
    Fuzz.of("tokenizer.json", BUFFERS, PER_BYTE)
        .run(
            List.of(Files.readAllBytes(model.resolve("tokenizer.json"))),
            input -> {
              Files.write(folder.resolve("tokenizer.json"), input);
              try (Tokenizer tokenizer = Tokenizer.load(folder)) {
                tokenizer.decode(tokenizer.encode("안녕 hello"));
              }
            });
  }

  private static final List<String> TEMPLATES =
      List.of(
          "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m['content'] | trim }}"
              + "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}",
          "{% set ns = namespace(n=0) %}{% for m in messages[::-1] if m.role != 'system' %}"
              + "{% set ns.n = ns.n + 1 %}{{ m.content.split('a')[-1].lstrip('\\n') }}{% endfor %}",
          "{% macro f(x) %}{{ x ~ x }}{% endmacro %}{{ f(f(messages[0].content)) }}"
              + "{% generation %}{{ messages[1].content }}{% endgeneration %}",
          "{% set x = 'ab' %}{% for i in range(9) %}{% set x = x + x %}{% endfor %}{{ x }}",
          "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% else %}"
              + "{% set rest = messages %}{% endif %}{{ rest | length }}{{ rest | tojson }}");

  /**
   * A template may produce 16 MB of text, a string of 16 MB and lists of a million entries on its
   * way, several of them, and copies of each.
   */
  @Test
  void chatTemplates() throws IOException {
    List<byte[]> seeds = new ArrayList<>(TEMPLATES.stream().map(TextFuzzTest::bytes).toList());
    Path qwen = Fixtures.data().resolve("qwen2.5-0.5b-instruct-tokenizer-config");
    if (Files.isDirectory(qwen)) {
      try (Tokenizer tokenizer = Tokenizer.load(qwen)) {
        seeds.add(bytes(String.valueOf(tokenizer.chatTemplate())));
      }
    }
    Path file = folder.resolve("t.jinja");
    List<Message> messages =
        List.of(new Message("user", " hi {{ there }}"), new Message("assistant", "banana\n"));
    try (Tokenizer tokenizer = Tokenizer.load(FixtureFiles.project("examples/model"))) {
      Fuzz.of("chat templates", 1L << 30, PER_BYTE)
          .run(
              seeds,
              input -> {
                Files.write(file, input);
                render(ChatTemplate.of(file.toString(), tokenizer), messages);
              });
    }
  }

  /** Templates that do nothing but work. */
  @Test
  void workOfTemplatesIsBounded() throws IOException {
    Path file = folder.resolve("t.jinja");
    String loops = "{% for i in range(1000) %}".repeat(6) + "{% endfor %}".repeat(6);
    int number = 0;
    try (Tokenizer tokenizer = Tokenizer.load(FixtureFiles.project("examples/model"))) {
      for (String template :
          List.of(
              loops,
              "{% set x = 'abcdefgh' %}" + "{% set x = x + x %}".repeat(40) + "{{ x | length }}",
              "{% set x = 'abcdefgh' %}" + "{% set x = x ~ x %}".repeat(40) + "{{ x | length }}",
              "{% set x = [1, 2] %}" + "{% set x = x + x %}".repeat(40) + "{{ x | length }}",
              "{{ 'x' * 999999999 }}",
              "{{ [0] * 999999999 }}",
              "{{ range(999999999) | length }}",
              "{{ 'x'.replace('', 'y') }}",
              "{% set x = 'aaaaaaaa' %}"
                  + "{% set x = x.replace('a', x) %}".repeat(6)
                  + "{{ x | length }}",
              "{% set x = 'ab' %}"
                  + "{% set x = x.join([x, x, x, x]) %}".repeat(40)
                  + "{{ x | length }}",
              "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
              "{{ '%999999999d' | format(1) }}",
              "{{ 'x' | center(999999999) }}",
              "{{ 'x' | indent(999999999) }}",
              "{{ 'a b c' | replace(' ', messages[0].content * 9999999) }}",
              "{{ " + "(".repeat(5000) + "1" + ")".repeat(5000) + " }}",
              "{{ 2 ** 99999999 }}",
              "{{ 'x' | batch(1, 'y') | list }}",
              "{{ messages | slice(999999999) | list }}")) {
        Fuzz.of("bounded template " + number++, 1L << 30, 0)
            .bounded(
                bytes(template),
                input -> {
                  Files.write(file, input);
                  render(
                      ChatTemplate.of(file.toString(), tokenizer),
                      List.of(new Message("user", "hi")));
                });
      }
    }
  }

  private static void render(ChatTemplate template, List<Message> messages) {
    InputException refused = null;
    try {
      template.renderMarked(messages, false);
    } catch (InputException e) {
      refused = e;
    }
    template.renderMarked(messages, true);
    if (refused != null) {
      throw refused;
    }
  }
}
