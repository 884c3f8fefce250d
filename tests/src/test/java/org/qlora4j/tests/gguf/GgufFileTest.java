// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.gguf;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.InputException;
import org.qlora4j.gguf.GgufFile;
import org.qlora4j.gguf.GgufType;
import org.qlora4j.gguf.GgufValue;
import org.qlora4j.gguf.GgufWriter;
import org.qlora4j.tests.support.Fuzz;

/** GGUF: written, read, written again; and files that lie. */
class GgufFileTest {
  private final Path file;

  GgufFileTest(@TempDir Path folder) {
    this.file = folder.resolve("model.gguf");
  }

  private static Map<String, GgufValue> everyKind() {
    Map<String, GgufValue> metadata = new TreeMap<>();
    for (GgufValue.Kind kind : GgufValue.Kind.values()) {
      Object value =
          switch (kind) {
            case F32 -> 1.5f;
            case F64 -> -2.25;
            case BOOL -> true;
            case STRING -> "caf\u00e9 \uc601\ud654";
            case U8 -> 200L;
            case U16 -> 60_000L;
            case U32 -> 4_000_000_000L;
            case U64, I64, I8, I16, I32 -> kind == GgufValue.Kind.U64 ? 5L : -5L;
          };
      metadata.put("scalar." + kind, new GgufValue.Scalar(kind, value));
      metadata.put("list." + kind, new GgufValue.Array(kind, List.of(value, value)));
      metadata.put("empty." + kind, new GgufValue.Array(kind, List.of()));
    }
    return metadata;
  }

  private static void write(Path file, Map<String, GgufValue> metadata, Map<String, byte[]> data) {
    try (GgufWriter writer = GgufWriter.create(file)) {
      metadata.forEach(writer::metadata);
      writer.declare("odd", GgufType.F32, 3);
      writer.declare("half", GgufType.F16, 5, 2);
      writer.declare("q8", GgufType.Q8_0, 64, 3);
      writer.declare("q4", GgufType.Q4_0, 32, 1, 2, 1);
      writer.declare("bf16", GgufType.BF16, 1);
      // Data may come in another order and in pieces.
      for (String name : List.of("q4", "odd", "bf16", "q8", "half")) {
        byte[] bytes = Objects.requireNonNull(data.get(name));
        writer.write(name, ByteBuffer.wrap(bytes, 0, bytes.length / 2));
        writer.write(
            name, ByteBuffer.wrap(bytes, bytes.length / 2, bytes.length - bytes.length / 2));
      }
      writer.commit();
    }
  }

  private static Map<String, byte[]> data() {
    Map<String, byte[]> data = new TreeMap<>();
    Random random = new Random(1);
    Map.of("odd", 12, "half", 20, "q8", 6 * 34, "q4", 2 * 18, "bf16", 2)
        .forEach(
            (name, bytes) -> {
              byte[] values = new byte[bytes];
              random.nextBytes(values);
              data.put(name, values);
            });
    return data;
  }

  @Test
  void writtenReadAndWrittenAgainIsTheSame() throws IOException {
    Map<String, byte[]> data = data();
    write(file, everyKind(), data);
    Map<String, byte[]> read = new TreeMap<>();
    Map<String, GgufValue> metadata;
    try (GgufFile gguf = GgufFile.open(file)) {
      metadata = gguf.metadata();
      assertEquals(everyKind(), metadata);
      assertEquals(List.of(5L, 2L), gguf.tensor("half").dimensions());
      gguf.tensors()
          .forEach(
              (name, tensor) -> {
                assertEquals(0, tensor.start() % 32, name);
                read.put(name, gguf.read(tensor));
                assertArrayEquals(data.get(name), read.get(name), name);
              });
    }
    assertEquals(data.keySet(), read.keySet());
    Path again = file.resolveSibling("again.gguf");
    write(again, metadata, read);
    assertEquals(-1, Files.mismatch(file, again));
    assertEquals(0, Files.size(file) % 32, "the last tensor is padded, too");
  }

  @Test
  void anUnfinishedFileDoesNotAppear() {
    try (GgufWriter writer = GgufWriter.create(file)) {
      writer.declare("a", GgufType.F32, 2);
      writer.write("a", ByteBuffer.allocate(4));
      assertThrows(IllegalArgumentException.class, () -> writer.write("a", ByteBuffer.allocate(8)));
      assertThrows(IllegalStateException.class, writer::commit);
    }
    assertFalse(Files.exists(file));
  }

  // ------------------------------------------------------------------ hostile

  /** A file by hand. */
  private static final class Bytes {
    private final ByteBuffer out = ByteBuffer.allocate(4096).order(ByteOrder.LITTLE_ENDIAN);

    Bytes header(int version, long tensors, long keys) {
      out.put("GGUF".getBytes(StandardCharsets.US_ASCII)).putInt(version);
      out.putLong(tensors).putLong(keys);
      return this;
    }

    Bytes text(String text) {
      byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
      out.putLong(bytes.length).put(bytes);
      return this;
    }

    Bytes u32(int value) {
      out.putInt(value);
      return this;
    }

    Bytes u64(long value) {
      out.putLong(value);
      return this;
    }

    Bytes u8(int value) {
      out.put((byte) value);
      return this;
    }

    Bytes tensor(String name, int type, long offset, long... dimensions) {
      text(name).u32(dimensions.length);
      for (long dimension : dimensions) {
        u64(dimension);
      }
      return u32(type).u64(offset);
    }

    /** Padding to the alignment and that many bytes of data. */
    byte[] data(int bytes) {
      int size = (out.position() + 31) / 32 * 32 + bytes;
      byte[] all = new byte[size];
      out.flip().get(all, 0, out.limit());
      return all;
    }
  }

  private void assertRefused(byte[] bytes, String part) throws IOException {
    Files.write(file, bytes);
    InputException e = assertThrows(InputException.class, () -> GgufFile.open(file));
    String message = String.valueOf(e.getMessage());
    assertTrue(message.contains(part), message);
    assertTrue(message.contains("model.gguf"), message);
    assertEquals(1, message.lines().count(), message);
  }

  private static Bytes one(long tensors, long keys) {
    return new Bytes().header(3, tensors, keys);
  }

  @Test
  void lyingFilesAreRefused() throws IOException {
    Path directory = Files.createDirectory(file.resolveSibling("directory.gguf"));
    InputException e = assertThrows(InputException.class, () -> GgufFile.open(directory));
    assertTrue(String.valueOf(e.getMessage()).contains("found a directory"), e.getMessage());
    assertRefused(new byte[0], "expected a GGUF file");
    assertRefused(new byte[100], "expected a GGUF file");
    assertRefused(new Bytes().header(1, 0, 0).data(0), "expected version 2 or 3, found 1");
    assertRefused(new Bytes().header(0x03000000, 0, 0).data(0), "expected version");
    assertRefused(one(-1, 0).data(64), "found the number 18446744073709551615");
    assertRefused(one(1L << 40, 0).data(64), "as many tensors as the file has room for");
    assertRefused(one(0, 1L << 40).data(64), "as many keys as the file has room for");
    assertRefused(one(0, 1).u64(-1).data(64), "expected a text within the file");
    assertRefused(one(0, 1).u64(1L << 33).data(64), "expected a text within the file");
    assertRefused(one(0, 1).text("k").u32(13).data(64), "found the kind 13");
    assertRefused(one(0, 1).text("k").u32(7).u8(2).data(64), "expected 0 or 1, found 2");
    assertRefused(one(0, 1).text("k").u32(9).u32(9).u64(1).data(64), "found the kind 9");
    assertRefused(one(0, 1).text("k").u32(9).u32(10).u64(1L << 60).data(64), "values of 'k'");
    assertRefused(one(0, 1).text("k").u32(9).u32(8).u64(99).data(64), "values of 'k'");
    assertRefused(
        one(0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1).data(64), "'k' comes twice");
    assertRefused(one(0, 1).u64(2).u8(0xc3).u8(0x28).u32(7).u8(1).data(64), "UTF-8");
    for (int alignment : new int[] {0, 3, 4, 48, 1 << 30, -1}) {
      assertRefused(
          one(0, 1).text("general.alignment").u32(4).u32(alignment).data(64),
          "general.alignment: expected a power of two");
    }
    assertRefused(
        one(0, 1).text("general.alignment").u32(8).text("32").data(64), "general.alignment");
  }

  @Test
  void lyingTensorsAreRefused() throws IOException {
    assertRefused(one(1, 0).tensor("t", 0, 0).data(64), "1 to 4 dimensions, found 0");
    assertRefused(one(1, 0).tensor("t", 0, 0, 1, 1, 1, 1, 1).data(64), "found 5");
    assertRefused(one(1, 0).tensor("t", 0, 0, 0).data(64), "dimensions of at least 1");
    assertRefused(one(1, 0).tensor("t", 0, 0, -4).data(64), "dimensions of at least 1");
    assertRefused(one(1, 0).tensor("t", 0, 0, 1L << 62, 8).data(64), "dimensions of at least 1");
    assertRefused(one(1, 0).tensor("t", 0, 0, 1L << 62).data(64), "more bytes than can be counted");
    assertRefused(one(1, 0).tensor("t", 3, 0, 32).data(64), "found number 3");
    assertRefused(one(1, 0).tensor("t", 8, 0, 33).data(64), "whole blocks of 32, found 33");
    assertRefused(one(1, 0).tensor("t", 0, 8, 4).data(64), "a multiple of 32, found 8");
    assertRefused(one(1, 0).tensor("t", 0, -32, 4).data(64), "a multiple of 32");
    assertRefused(one(1, 0).tensor("t", 0, 0, 17).data(64), "it is truncated or lies");
    assertRefused(one(1, 0).tensor("t", 0, 1L << 62, 4).data(64), "it is truncated or lies");
    assertRefused(one(1, 0).tensor("t", 0, 64, 4).data(64), "it is truncated or lies");
    assertRefused(one(2, 0).tensor("t", 0, 0, 4).tensor("t", 0, 32, 4).data(64), "'t' comes twice");
    assertRefused(
        one(2, 0).tensor("t", 0, 0, 16).tensor("u", 0, 32, 4).data(64), "lies over another");
  }

  /** Whatever is cut off or changed, the answer is one line or a file whose ranges hold. */
  @Test
  void truncatedAndChangedFiles() throws IOException {
    write(file, everyKind(), data());
    byte[] whole = Files.readAllBytes(file);
    // Keys and tensors become objects of some 100 bytes each, of which the shortest take 13 bytes.
    Fuzz.of("GGUF files", 4 << 20, 1000)
        .run(
            List.of(whole),
            input -> {
              Files.write(file, input);
              try (GgufFile gguf = GgufFile.open(file)) {
                gguf.tensors().values().forEach(gguf::read);
              }
            });
  }
}
