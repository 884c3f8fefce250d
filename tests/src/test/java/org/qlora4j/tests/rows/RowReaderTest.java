// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.rows;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.GZIPOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.InputException;
import org.qlora4j.rows.BadRow;
import org.qlora4j.rows.RawRow;
import org.qlora4j.rows.RowFormat;
import org.qlora4j.rows.RowReader;
import org.tukaani.xz.LZMA2Options;
import org.tukaani.xz.XZOutputStream;

final class RowReaderTest {
  private static final int MAX = 2000;

  private final Path dir;

  RowReaderTest(@TempDir Path dir) {
    this.dir = dir;
  }

  private Path file(String name, String content) throws IOException {
    return Files.writeString(dir.resolve(name), content);
  }

  /** Each row as "line:text" or "line!kind". */
  private static List<String> read(Path file, String field) throws IOException {
    List<String> rows = new ArrayList<>();
    try (RowReader reader = new RowReader(file, 0, RowFormat.of(file), MAX)) {
      for (RawRow raw = reader.next(); raw != null; raw = reader.next()) {
        try {
          rows.add(raw.line() + ":" + reader.parser().parse(raw).require(field));
        } catch (BadRow e) {
          rows.add(raw.line() + "!" + e.kind());
        }
      }
    }
    return rows;
  }

  @Test
  void jsonLines() throws IOException {
    Path file =
        file(
            "a.jsonl",
            "\ufeff{\"t\": \"하나\"}\r\n\n{\"t\": [\"a\", 2]}\n{\"t\": 5}\n{\"t\": {}}\n{\"t\": null}\n{\"x\": 1}\n[1]\n{\"t\": \"끊긴\n{\"t\": \"a\", \"t\": \"b\"}\n{\"t\":\"끝\"}");
    assertEquals(
        List.of(
            "1:하나",
            "3:a, 2",
            "4:5",
            "5!MISSING_FIELD",
            "6!MISSING_FIELD",
            "7!MISSING_FIELD",
            "8!MALFORMED",
            "9!MALFORMED",
            "10!MALFORMED",
            "11:끝"),
        read(file, "t"));
  }

  @Test
  void csvWithQuotesAndLineEnds() throws IOException {
    Path file =
        file(
            "a.csv",
            "id,t\n1,짧은 글\n2,\"쉼표, 와 \"\"따옴표\"\"\"\n3,\"두\n줄\"\n4,5\" 피자\n5\n6,a,b\n7,끝\n");
    assertEquals(
        List.of(
            "2:짧은 글", "3:쉼표, 와 \"따옴표\"", "4:두\n줄", "6:5\" 피자", "7!MALFORMED", "8!MALFORMED", "9:끝"),
        read(file, "t"));
  }

  @Test
  void anOpenQuoteCostsOneRow() throws IOException {
    Path file = file("a.csv", "id,t\n1,\"열린 따옴표\n2,둘\n3,\"셋\"\n");
    assertEquals(List.of("2!MALFORMED", "3:둘", "4:셋"), read(file, "t"));
    Path longer = file("b.csv", "id,t\n1,\"열린 따옴표\n" + "2,둘\n".repeat(1000));
    List<String> rows = read(longer, "t");
    assertEquals(1001, rows.size());
    assertEquals("2!MALFORMED", rows.get(0));
    assertEquals("1002:둘", rows.get(1000));
  }

  @Test
  void aRecordThatIsTooLongIsOneRow() throws IOException {
    // Its lines have as many commas as a row of this table.
    String lines = "쉼표, 하나\n".repeat(300);
    Path file = file("a.csv", "id,t\n1,\"" + lines + "\"\n2,둘\n");
    assertEquals(List.of("2!TOO_LONG", "303:둘"), read(file, "t"));
    Path first = file("b.csv", "id,t\n1,\"" + "긴 줄".repeat(1000) + "\n" + lines + "\"\n2,둘\n");
    assertEquals(List.of("2!TOO_LONG", "304:둘"), read(first, "t"));
  }

  @Test
  void everyMemberOfAGzipFileIsRead() throws IOException {
    Path file = dir.resolve("members.jsonl.gz");
    int members = 5000;
    try (OutputStream out = Files.newOutputStream(file)) {
      for (int i = 0; i < members; i++) {
        ByteArrayOutputStream member = new ByteArrayOutputStream();
        try (OutputStream gzip = new GZIPOutputStream(member)) {
          gzip.write(("{\"t\": \"" + i + "\"}\n").getBytes(StandardCharsets.UTF_8));
        }
        out.write(member.toByteArray());
      }
    }
    assertEquals(members, read(file, "t").size());
  }

  @Test
  void tsvTakesQuotesAsTheyAre() throws IOException {
    Path file = file("a.tsv", "id\tt\n1\t\"열린\n2\t둘\n3\n");
    assertEquals(List.of("2:\"열린", "3:둘", "4!MALFORMED"), read(file, "t"));
  }

  @Test
  void wrongBytesAndLongRowsAreBadRows() throws IOException {
    Path file = dir.resolve("a.jsonl");
    try (OutputStream out = Files.newOutputStream(file)) {
      out.write("{\"t\": \"하나\"}\n{\"t\": \"".getBytes(StandardCharsets.UTF_8));
      out.write(new byte[] {(byte) 0xc1, (byte) 0xc1});
      out.write(
          ("\"}\n{\"t\": \"" + "긴 ".repeat(5000) + "\"}\n{\"t\": \"끝\"}\n")
              .getBytes(StandardCharsets.UTF_8));
    }
    assertEquals(List.of("1:하나", "2!NOT_UTF8", "3!TOO_LONG", "4:끝"), read(file, "t"));
  }

  @Test
  void compressedFiles() throws IOException {
    byte[] content = "id\tt\n1\t하나\n".getBytes(StandardCharsets.UTF_8);
    Path gz = dir.resolve("a.tsv.gz");
    try (OutputStream out = new GZIPOutputStream(Files.newOutputStream(gz))) {
      out.write(content);
    }
    Path xz = dir.resolve("ratings.txt.xz");
    try (OutputStream out = new XZOutputStream(Files.newOutputStream(xz), new LZMA2Options())) {
      out.write(content);
    }
    assertEquals(List.of("2:하나"), read(gz, "t"));
    assertEquals(List.of("2:하나"), read(xz, "t"));
  }

  @Test
  void saysWhatIsWrongWithAFile() throws IOException {
    assertMessage("no such file", () -> new RowReader(dir.resolve("x.csv"), 0, RowFormat.CSV, MAX));
    assertMessage("found a directory", () -> new RowReader(dir, 0, RowFormat.CSV, MAX));
    Path empty = file("empty.csv", "\n\n");
    assertMessage("names of the columns", () -> new RowReader(empty, 0, RowFormat.CSV, MAX));
    assertMessage("a.parquet", () -> RowFormat.of(Path.of("a.parquet")));
    Path wrong = file("wrong.xz", "nothing");
    assertMessage("cannot read", () -> new RowReader(wrong, 0, RowFormat.TSV, MAX));
    Path table = file("t.csv", "a,b\n1,2\n");
    try (RowReader reader = new RowReader(table, 0, RowFormat.CSV, MAX)) {
      assertMessage(
          "expected a column 'text', found 'a, b'", () -> reader.parser().require("t.csv", "text"));
    }
  }

  private static void assertMessage(String part, Executable call) {
    String message = assertThrows(InputException.class, call).getMessage();
    assertNotNull(message);
    assertTrue(message.contains(part), message);
  }
}
