// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.data.ChatTemplate;
import org.qlora4j.data.Example.Message;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Fixtures;

/** Chat templates against what transformers renders. */
class ChatTemplateTest {
  private static final String CASES = "chat_templates.json";

  private final Path folder;

  ChatTemplateTest(@TempDir Path folder) {
    this.folder = folder;
  }

  /** Every model that the fixtures have conversations for. */
  @TestFactory
  Stream<DynamicTest> textsAndIdsAreThoseOfTransformers() {
    if (!Fixtures.has("tokenizers")) {
      return Stream.of(DynamicTest.dynamicTest("tokenizers", () -> Fixtures.topic("tokenizers")));
    }
    Fixtures fixtures = Fixtures.topic("tokenizers");
    return fixtures.json(CASES).properties().stream()
        .map(
            cases ->
                DynamicTest.dynamicTest(
                    cases.getKey(),
                    () -> {
                      textsAndIdsAreThoseOfTransformers(cases.getKey(), cases.getValue());
                      fixtures.count(Fixtures.entry(CASES, cases.getKey()));
                    }));
  }

  private static void textsAndIdsAreThoseOfTransformers(String name, JsonNode cases) {
    assertTrue(cases.size() > 0, "no cases for " + name);
    try (Tokenizer tokenizer = Tokenizer.load(FixtureFiles.data(name))) {
      ChatTemplate template = ChatTemplate.of("tokenizer", tokenizer);
      for (JsonNode example : cases) {
        List<Message> messages = new ArrayList<>();
        for (JsonNode message : example.get("messages")) {
          messages.add(
              new Message(message.get("role").textValue(), message.get("content").textValue()));
        }
        String text =
            template.render(messages, example.get("add_generation_prompt").booleanValue());
        assertEquals(example.get("text").textValue(), text);
        JsonNode ids = example.get("ids");
        int[] expected = new int[ids.size()];
        for (int i = 0; i < expected.length; i++) {
          expected[i] = ids.get(i).intValue();
        }
        assertArrayEquals(expected, tokenizer.encodeInner(text));
      }
    }
  }

  private String render(String template, Message... messages) throws IOException {
    Path file = folder.resolve("t.jinja");
    Files.writeString(file, template);
    try (Tokenizer tokenizer = Tokenizer.load(FixtureFiles.data("tinystories-656k-llama-hf"))) {
      return ChatTemplate.of(file.toString(), tokenizer).render(List.of(messages), true);
    }
  }

  private static final Message USER = new Message("user", "  hi {{ there }} ");
  private static final Message ASSISTANT = new Message("assistant", "<b>\"yes\"</b> & 'so'");

  /** What the templates of published models use of Jinja. */
  @Test
  void rendersTheJinjaThatModelsUse() throws IOException {
    assertEquals(
        "<|start_story|>user=hi {{ there }}|assistant=<b>\"yes\"</b> & 'so'<|end_story|>|last",
        render(
            """
            {{- bos_token -}}
            {%- for m in messages -%}
            {{ m.role + '=' + m['content'] | trim }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}|
            {%- if loop.last and add_generation_prompt %}last{% endif %}
            {%- endfor %}
            """,
            USER, ASSISTANT));
    assertEquals(
        "SYS[be brief] 1:hi",
        render(
            """
            {%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}
            {%- else %}{% set system = '' %}{% set rest = messages %}{% endif -%}
            SYS[{{ system }}]
            {%- for m in rest %} {{ loop.index0 + 1 }}:{{ m['content'].strip() }}{% endfor %}""",
            new Message("system", "be brief"), new Message("user", " hi ")));
    assertEquals(
        "no tools",
        render("{% if tools is defined and tools %}tools{% else %}no tools{% endif %}", USER));
    assertEquals(
        "2",
        render(
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            USER, ASSISTANT));
  }

  /** Python's strings, slices and loops, with what Python and Jinja2 give. */
  @ParameterizedTest
  @CsvSource(
      delimiterString = " => ",
      value = {
        "{{ 'a</t>\\n\\nb'.split('</t>')[-1].lstrip('\\n') }} => b",
        "{{ '\\na\\n'.rstrip('\\n').lstrip() }} => a",
        "{{ 'xxaxx'.strip('x') }} => a",
        "{{ 'a.b.c'.split('.') | join('-') }} => a-b-c",
        "{{ 'a.b.c'.split('.', 1) | join('-') }} => a-b.c",
        "{{ ' a  b '.split() | join('-') }} => a-b",
        "{{ 'aXbX'.replace('X', '.') }}{{ 'aXbX'.replace('X', '.', 1) }} => a.b.a.bX",
        "{{ 'Ab'.lower() }}{{ 'Ab'.upper() }}{{ 'ab cd'.title() }}{{ 'aB'.capitalize() }} => abABAb CdAb",
        "{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith('ab') }} => truefalse",
        "{{ 'abc'.removeprefix('ab') }}{{ 'abc'.removesuffix('bc') }} => ca",
        "{{ 'abab'.count('ab') }}{{ 'abab'.find('b') }}{{ 'a'.find('b') }} => 21-1",
        "{{ '-'.join(['a', 'b']) }} => a-b",
        "{% for m in messages[::-1] %}{{ m.role }},{% endfor %} => assistant,user,",
        "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ m.role }}{{ loop.last }}{% endfor %} => 1assistanttrue",
        "{% for m in messages if ' if ' in m.content %}{{ m.role }}{% endfor %} => ''",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %} => assistant",
        "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %} => a1b2",
        "{% for k, v in {'a': 1, 'b': 2}.items() if v > 1 %}{{ k }}{{ v }}{% endfor %} => b2",
        "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %} => ab",
        "{% for m in nothing %}{{ m }}{% endfor %}. => .",
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('q') }} => [q]",
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} => 1",
        "{{ messages[0].content is string }}{{ messages[0].tools is defined }} => truefalse",
        "{{ 'a' if messages[0].get('tools') else 'b' }} => b",
      })
  void rendersPython(String template, String expected) throws IOException {
    assertEquals(expected, render(template, USER, ASSISTANT));
  }

  @Test
  void whatIsNotSupportedIsRefusedAndNotLeftOut() {
    assertRefused(
        () -> render("{% for m in messages %}{{ loop.previtem }}{% endfor %}", USER), "previtem");
    assertRefused(() -> render("{{ 'a'.swapcase() }}", USER), "swapcase");
    assertRefused(() -> render("{{ 'a'.split('') }}", USER), "separator");
    assertRefused(() -> render("{{ dict(a=1) }}", USER), "dict");
  }

  @Test
  void contentIsNeverRenderedAsATemplate() throws IOException {
    assertEquals(
        "{{ eos_token }}{% raw %}",
        render("{{ messages[0]['content'] }}", new Message("user", "{{ eos_token }}{% raw %}")));
  }

  @Test
  void thePlainTemplate() {
    try (Tokenizer tokenizer = Tokenizer.load(FixtureFiles.data("tinystories-656k-llama-hf"))) {
      ChatTemplate template = ChatTemplate.of("tokenizer", tokenizer);
      String text =
          template.render(
              List.of(
                  new Message("system", "s"),
                  new Message("user", "u"),
                  new Message("assistant", "a")),
              true);
      assertEquals("### System:\ns\n\n### User:\nu\n\n### Assistant:\na\n\n### Assistant:\n", text);
    }
  }

  @Test
  void failuresAreOneLine() {
    assertRefused(
        () -> render("{{ raise_exception('Only user\nand assistant') }}", USER),
        "t.jinja",
        "Only user\\nand assistant");
    assertRefused(() -> render("{% for m in messages %}", USER), "t.jinja");
    assertRefused(() -> render("{% include '/etc/passwd' %}", USER), "t.jinja");
    assertRefused(
        () ->
            render(
                "{% for a in range(40) %}{{ messages[0]['content'] }}{% endfor %}",
                new Message("user", "x".repeat(1 << 20))),
        "t.jinja");
    assertRefused(
        () ->
            ChatTemplate.of(
                "absent.jinja", Tokenizer.load(FixtureFiles.data("tinystories-656k-llama-hf"))),
        "absent.jinja");
  }
}
