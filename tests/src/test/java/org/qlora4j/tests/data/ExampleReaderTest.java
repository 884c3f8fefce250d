// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.data;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.data.Example;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.tests.support.FixtureFiles;

/** Files of examples: the four kinds of rows, and files that are not what they should be. */
class ExampleReaderTest {
  private static final ExampleReader READER = new ExampleReader("alpaca");

  private final Path folder;

  ExampleReaderTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private Path write(String name, String content) throws IOException {
    return Files.writeString(folder.resolve(name), content);
  }

  private Path bytes(String name, byte[]... parts) throws IOException {
    Path file = folder.resolve(name);
    try (var out = Files.newOutputStream(file)) {
      for (byte[] part : parts) {
        out.write(part);
      }
    }
    return file;
  }

  @Test
  void rowsOfEveryKind() throws IOException {
    Path file =
        write(
            "a.jsonl",
            """
            {"text": "안녕"}

            {"prompt": "p", "completion": "c", "text": "ignored", "label": 3}
            {"instruction": "do it", "input": "", "output": "done"}
            {"instruction": "do {input} it", "input": "with {instruction}", "output": "done"}
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 1}]}
            """);
    List<Example> examples = READER.read(file);
    assertEquals(new Example.Text(file + ":1", "안녕"), examples.get(0));
    assertEquals(new Example.Completion(file + ":3", "p", "c"), examples.get(1));
    assertEquals(
        new Example.Completion(
            file + ":4",
            """
            Below is an instruction that describes a task. Write a response that appropriately completes the request.

            ### Instruction:
            do it

            ### Response:
            """,
            "done"),
        examples.get(2));
    assertEquals(
        new Example.Completion(
            file + ":5",
            """
            Below is an instruction that describes a task, paired with an input that provides further context. \
            Write a response that appropriately completes the request.

            ### Instruction:
            do {input} it

            ### Input:
            with {instruction}

            ### Response:
            """,
            "done"),
        examples.get(3));
    assertEquals(
        new Example.Chat(
            file + ":6",
            List.of(new Example.Message("user", "u"), new Example.Message("assistant", "a"))),
        examples.get(4));
    assertEquals(5, examples.size());
  }

  @Test
  void aPromptTemplateOfOnesOwn() throws IOException {
    Path file = write("a.jsonl", "{\"instruction\": \"I\", \"input\": \"X\", \"output\": \"O\"}\n");
    assertEquals(
        List.of(new Example.Completion(file + ":1", "<I|X>", "O")),
        new ExampleReader("<{instruction}|{input}>").read(file));
  }

  @Test
  void oneJsonListIsReadToo() throws IOException {
    Path file = write("a.json", "[{\"text\": \"a\"},\n {\"text\": \"b\"}]");
    assertEquals(
        List.of("a", "b"), READER.read(file).stream().map(e -> ((Example.Text) e).text()).toList());
    Path lines = write("b.json", "{\"text\": \"a\"}");
    assertRefused(() -> READER.read(lines), "b.json", "a list of objects", ".jsonl");
    Path numbers = write("c.json", "[{\"text\": \"a\"}, 3]");
    assertRefused(() -> READER.read(numbers), "c.json entry 2", "found 3");
  }

  @Test
  void windowsLineEndsAndAByteOrderMarkAreNoHarm() throws IOException {
    Path file = write("a.jsonl", "\uFEFF{\"text\": \"a\"}\r\n{\"text\": \"b\"}");
    assertEquals(
        List.of("a", "b"), READER.read(file).stream().map(e -> ((Example.Text) e).text()).toList());
    assertEquals("a\r\nb", ExampleReader.readText(write("b.txt", "\uFEFFa\r\nb")));
    assertEquals("a\n\n", ExampleReader.readText(write("c.txt", "a\n\n")));
    assertEquals("", ExampleReader.readText(write("d.txt", "")));
  }

  @Test
  void bytesThatAreNotUtf8AreReportedWithTheirLine() throws IOException {
    byte[] good = "{\"text\": \"좋아요\"}\n".getBytes(StandardCharsets.UTF_8);
    byte[] cp949 = "{\"text\": \"좋아요\"}\n".getBytes(Charset.forName("MS949"));
    Path file = bytes("a.jsonl", good, good, cp949);
    assertRefused(
        () -> READER.read(file), file + ":3: expected UTF-8", "byte 0xc1", "at byte 11", "iconv");
    Path text = bytes("a.txt", good, cp949);
    assertRefused(
        () -> ExampleReader.readText(text), file.resolveSibling("a.txt") + ":2: expected UTF-8");
    Path truncated = bytes("b.jsonl", good, new byte[] {'"', (byte) 0xea, (byte) 0xb0});
    assertRefused(() -> READER.read(truncated), "b.jsonl:2", "UTF-8");
    Path surrogate = bytes("c.jsonl", new byte[] {(byte) 0xed, (byte) 0xa0, (byte) 0x80, '\n'});
    assertRefused(() -> READER.read(surrogate), "c.jsonl:1", "UTF-8");
    Path utf16 = bytes("d.jsonl", "\uFEFF{}".getBytes(StandardCharsets.UTF_16LE));
    assertRefused(() -> READER.read(utf16), "d.jsonl", "UTF-16");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{\"text\": 3}|text: expected a text, found 3",
        "{\"text\": \"a\"|not valid JSON at line 1",
        "{\"text\": \"a\", \"text\": \"b\"}|uplicate",
        "[\"a\"]|expected a JSON object, found a list",
        "{\"prompt\": \"a\"}|found 'prompt'",
        "{\"question\": \"a\", \"answer\": \"b\"}|found 'question, answer'",
        "{}|found none",
        "{\"prompt\": \"a\", \"completion\": null}|completion: expected a text, found null",
        "{\"instruction\": [\"a\"], \"output\": \"b\"}|instruction: expected a text, found a list",
        "{\"messages\": []}|a list of {role, content}",
        "{\"messages\": \"hi\"}|a list of {role, content}",
        "{\"messages\": [{\"role\": \"user\"}]}|a text content",
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}|a text content",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}|assistant",
      })
  void wrongRowsAreReportedWithTheirLine(String row, String part) throws IOException {
    Path file = write("a.jsonl", "{\"text\": \"a\"}\n" + row + "\n");
    assertRefused(() -> READER.read(file), file + ":2", part);
  }

  @Test
  void filesThatAreNotThere() throws IOException {
    assertRefused(
        () -> READER.read(folder.resolve("absent.jsonl")), "no such file", "absent.jsonl");
    assertRefused(() -> READER.read(folder), "found a directory");
    Path empty = write("empty.jsonl", "\n\n");
    assertRefused(() -> READER.read(empty), "empty.jsonl", "at least one example");
  }

  @Test
  void aPublishedFileIsRead() {
    List<Example> examples =
        new ExampleReader("alpaca").read(FixtureFiles.project("examples/data/blog-reviews.jsonl"));
    assertTrue(examples.size() > 100);
    assertTrue(examples.get(0) instanceof Example.Completion);
  }
}
