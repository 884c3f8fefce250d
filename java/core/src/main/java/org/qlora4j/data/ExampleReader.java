// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * Reads files of examples: JSON Lines ({@code .jsonl}), one JSON list ({@code .json}), or plain
 * text ({@code .txt}), in UTF-8. The fields of a row decide what it is, the first that fits:
 *
 * <ol>
 *   <li>{@code messages}: a list of {role, content}
 *   <li>{@code prompt} and {@code completion}
 *   <li>{@code instruction}, optional {@code input}, and {@code output}, put into the prompt
 *       template
 *   <li>{@code text}
 * </ol>
 *
 * Other fields are ignored. Every failure names the file and the line.
 */
public final class ExampleReader {
  private static final int MAX_LINE_BYTES = 64 << 20;

  private static final String ALPACA_WITH_INPUT =
      """
      Below is an instruction that describes a task, paired with an input that provides further context. \
      Write a response that appropriately completes the request.

      ### Instruction:
      {instruction}

      ### Input:
      {input}

      ### Response:
      """;
  private static final String ALPACA =
      """
      Below is an instruction that describes a task. Write a response that appropriately completes the request.

      ### Instruction:
      {instruction}

      ### Response:
      """;

  private final String promptTemplate;

  /**
   * @param promptTemplate "alpaca", or a text with {instruction} and {input}, for rows with
   *     `instruction`
   */
  public ExampleReader(String promptTemplate) {
    this.promptTemplate = promptTemplate;
  }

  /** Whether a file is plain text to be cut into sequences, rather than rows of examples. */
  public static boolean isPlainText(Path file) {
    return file.toString().toLowerCase(Locale.ROOT).endsWith(".txt");
  }

  /** The rows of a .jsonl or .json file, in order. */
  public List<Example> read(Path file) {
    List<Example> examples = new ArrayList<>();
    if (file.toString().toLowerCase(Locale.ROOT).endsWith(".json")) {
      readList(file, examples);
    } else {
      readLines(file, examples);
    }
    if (examples.isEmpty()) {
      throw new InputException(file + ": expected at least one example, found none");
    }
    return examples;
  }

  /** A plain text file's content. */
  public static String readText(Path file) {
    StringBuilder text = new StringBuilder();
    try (Lines lines = new Lines(file)) {
      for (String line = lines.next(); line != null; line = lines.next()) {
        text.append(line);
        if (lines.endedWithNewline()) {
          text.append('\n');
        }
      }
    } catch (IOException e) {
      throw cannotRead(file, e);
    }
    return text.toString();
  }

  /**
   * A prompt made of an instruction and an input, which may be empty, as for a row with those
   * fields.
   */
  public String prompt(String instruction, String input) {
    String template =
        !promptTemplate.equals("alpaca")
            ? promptTemplate
            : input.isEmpty() ? ALPACA : ALPACA_WITH_INPUT;
    // One pass, so that braces inside the values are left alone.
    StringBuilder prompt = new StringBuilder();
    int at = 0;
    while (at < template.length()) {
      if (template.startsWith("{instruction}", at)) {
        prompt.append(instruction);
        at += "{instruction}".length();
      } else if (template.startsWith("{input}", at)) {
        prompt.append(input);
        at += "{input}".length();
      } else {
        prompt.append(template.charAt(at++));
      }
    }
    return prompt.toString();
  }

  private void readLines(Path file, List<Example> examples) {
    try (Lines lines = new Lines(file)) {
      for (String line = lines.next(); line != null; line = lines.next()) {
        if (!line.isBlank()) {
          String source = lines.source();
          examples.add(example(Json.object(line, source), source));
        }
      }
    } catch (IOException e) {
      throw cannotRead(file, e);
    }
  }

  private void readList(Path file, List<Example> examples) {
    JsonNode list = Json.value(readText(file), file.toString());
    if (!list.isArray()) {
      throw new InputException(
          file
              + ": expected a list of objects, found "
              + Json.kind(list)
              + "; one object a line is called .jsonl");
    }
    for (int i = 0; i < list.size(); i++) {
      String source = file + " entry " + (i + 1);
      if (!(list.get(i) instanceof ObjectNode row)) {
        throw new InputException(source + ": expected an object, found " + Json.kind(list.get(i)));
      }
      examples.add(example(row, source));
    }
  }

  private Example example(ObjectNode row, String source) {
    if (row.has("messages")) {
      return new Example.Chat(source, messages(row.get("messages"), source));
    }
    if (row.has("prompt") && row.has("completion")) {
      return new Example.Completion(
          source, text(row, "prompt", source), text(row, "completion", source));
    }
    if (row.has("instruction") && row.has("output")) {
      String input = row.hasNonNull("input") ? text(row, "input", source) : "";
      return new Example.Completion(
          source, prompt(text(row, "instruction", source), input), text(row, "output", source));
    }
    if (row.has("text")) {
      return new Example.Text(source, text(row, "text", source));
    }
    List<String> fields = new ArrayList<>();
    for (Iterator<String> names = row.fieldNames(); names.hasNext() && fields.size() < 8; ) {
      fields.add(names.next());
    }
    throw new InputException(
        source
            + ": expected the fields messages, prompt and completion, instruction and output, or text, found "
            + (fields.isEmpty() ? "none" : Text.quote(String.join(", ", fields))));
  }

  private static List<Example.Message> messages(JsonNode list, String source) {
    List<Example.Message> messages = new ArrayList<>();
    if (!list.isArray() || list.isEmpty()) {
      throw new InputException(
          source + ": messages: expected a list of {role, content}, found " + Json.kind(list));
    }
    boolean assistant = false;
    for (JsonNode message : list) {
      JsonNode role = message.path("role");
      JsonNode content = message.path("content");
      if (!role.isTextual() || !content.isTextual()) {
        throw new InputException(
            source
                + ": messages: expected each to have a text role and a text content, found "
                + Text.quote(Json.compact(message)));
      }
      assistant |= role.textValue().equals("assistant");
      messages.add(new Example.Message(role.textValue(), content.textValue()));
    }
    if (!assistant) {
      throw new InputException(
          source + ": messages: expected at least one of role assistant to learn, found none");
    }
    return messages;
  }

  private static String text(ObjectNode row, String field, String source) {
    JsonNode value = row.get(field);
    if (value == null || !value.isTextual()) {
      throw new InputException(
          source
              + ": "
              + field
              + ": expected a text, found "
              + (value == null ? "nothing" : Json.kind(value)));
    }
    return value.textValue();
  }

  private static InputException cannotRead(Path file, IOException e) {
    return e instanceof NoSuchFileException
        ? new InputException("no such file: " + file, e)
        : new InputException("cannot read " + file + ": " + e, e);
  }

  /** Lines of a file, each decoded strictly, so that a wrong byte is reported with its line. */
  private static final class Lines implements AutoCloseable {
    private final Path file;
    private final InputStream in;
    private final CharsetDecoder decoder =
        StandardCharsets.UTF_8
            .newDecoder()
            .onMalformedInput(CodingErrorAction.REPORT)
            .onUnmappableCharacter(CodingErrorAction.REPORT);
    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    private long line;
    private boolean newline;

    Lines(Path file) throws IOException {
      this.file = file;
      if (Files.isDirectory(file)) {
        throw new InputException(file + ": expected a file of examples, found a directory");
      }
      this.in = new BufferedInputStream(Files.newInputStream(file), 1 << 16);
    }

    /** The next line without its end, or null. */
    @Nullable String next() throws IOException {
      bytes.reset();
      int b = in.read();
      if (b < 0) {
        return null;
      }
      line++;
      newline = false;
      for (; b >= 0; b = in.read()) {
        if (b == '\n') {
          newline = true;
          break;
        }
        bytes.write(b);
        if (bytes.size() > MAX_LINE_BYTES) {
          throw new InputException(
              source() + ": expected lines of at most " + MAX_LINE_BYTES + " bytes");
        }
      }
      return decode(bytes.toByteArray());
    }

    boolean endedWithNewline() {
      return newline;
    }

    String source() {
      return file + ":" + line;
    }

    private String decode(byte[] encoded) {
      if (line == 1 && startsLikeUtf16(encoded)) {
        throw new InputException(file + ": expected UTF-8, found UTF-16; save it as UTF-8");
      }
      ByteBuffer input = ByteBuffer.wrap(encoded);
      CharBuffer output = CharBuffer.allocate(encoded.length);
      CoderResult result = decoder.reset().decode(input, output, true);
      if (result.isError()) {
        int offset = input.position();
        throw new InputException(
            source()
                + ": expected UTF-8, found byte 0x"
                + Integer.toHexString(encoded[offset] & 0xff)
                + " at byte "
                + (offset + 1)
                + " of the line; if the file is in another encoding, convert it, for example with"
                + " iconv -f CP949 -t UTF-8");
      }
      String text = output.flip().toString();
      // A byte order mark at the start is no part of the text.
      return line == 1 && text.startsWith("\uFEFF") ? text.substring(1) : text;
    }

    private static boolean startsLikeUtf16(byte[] encoded) {
      if (encoded.length < 2) {
        return false;
      }
      int mark = (encoded[0] & 0xff) << 8 | (encoded[1] & 0xff);
      return mark == 0xfffe || mark == 0xfeff;
    }

    @Override
    public void close() throws IOException {
      in.close();
    }
  }
}
