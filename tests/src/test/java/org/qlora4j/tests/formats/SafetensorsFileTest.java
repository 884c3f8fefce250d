// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.tests.support.FixtureFiles;

/** Safetensors: what is written is read back, and no header is believed. */
class SafetensorsFileTest {
  private final Path folder;

  SafetensorsFileTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private Path write(String header, int dataBytes) throws IOException {
    byte[] json = header.getBytes(StandardCharsets.UTF_8);
    return write(json.length, json, dataBytes);
  }

  private Path write(long length, byte[] header, int dataBytes) throws IOException {
    Path file = folder.resolve("t.safetensors");
    ByteBuffer bytes =
        ByteBuffer.allocate(8 + header.length + dataBytes).order(ByteOrder.LITTLE_ENDIAN);
    bytes.putLong(length).put(header);
    Files.write(file, bytes.array());
    return file;
  }

  private static String tensor(String name, String dtype, String shape, long begin, long end) {
    return String.format(
        "\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%d,%d]}",
        name, dtype, shape, begin, end);
  }

  @Test
  void readsBackWhatWasWritten() {
    Path file = folder.resolve("sub/t.safetensors");
    float[] values =
        new Random(1)
            .doubles(300_000)
            .collect(() -> new FloatSink(300_000), FloatSink::add, (a, b) -> {})
            .values;
    try (SafetensorsWriter writer = SafetensorsWriter.create(file).metadata("made by", "a test")) {
      writer.declare("bytes", StoredType.U8, 3);
      writer.declare("matrix", StoredType.F32, 600, 500);
      writer.declare("scalar", StoredType.F32);
      writer.declare("empty", StoredType.BF16, 0, 7);
      writer.declare("한글 \"이름\"", StoredType.I64, 1);
      writer.write("matrix", values);
      writer.write("bytes", ByteBuffer.wrap(new byte[] {1}));
      writer.write("bytes", ByteBuffer.wrap(new byte[] {2, -1}));
      writer.write("scalar", new float[] {-0.5f});
      writer.write("한글 \"이름\"", ByteBuffer.wrap(new byte[] {1, 0, 0, 0, 0, 0, 0, -128}));
      assertFalse(Files.exists(file), "nothing at the target before commit");
      writer.commit();
    }
    try (SafetensorsFile read = SafetensorsFile.open(file)) {
      assertEquals("pt", read.metadata().get("format"));
      assertEquals("a test", read.metadata().get("made by"));
      assertArrayEquals(new long[] {600, 500}, read.tensor("matrix").shape());
      assertArrayEquals(values, read.tensor("matrix").toFloats());
      assertArrayEquals(new long[] {1, 2, 255}, read.tensor("bytes").toLongs());
      assertArrayEquals(new long[0], read.tensor("scalar").shape());
      assertArrayEquals(new float[] {-0.5f}, read.tensor("scalar").toFloats());
      assertEquals(0, read.tensor("empty").bytes());
      assertArrayEquals(new long[] {Long.MIN_VALUE + 1}, read.tensor("한글 \"이름\"").toLongs());
      assertEquals(
          List.of("한글 \"이름\"", "matrix", "scalar", "empty", "bytes"), List.copyOf(read.names()));
    }
  }

  /** Collects doubles as floats. */
  private static final class FloatSink {
    final float[] values;
    int size;

    FloatSink(int capacity) {
      values = new float[capacity];
    }

    void add(double value) {
      values[size++] = (float) value;
    }
  }

  @Test
  void dataStartsAligned() throws IOException {
    Path file = folder.resolve("t.safetensors");
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      writer.declare("a", StoredType.F32, 1);
      writer.write("a", new float[] {1});
      writer.commit();
    }
    long header =
        ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN).getLong();
    assertEquals(0, (8 + header) % 8);
  }

  @Test
  void aWriterWithoutCommitLeavesNothing() throws IOException {
    Path file = folder.resolve("t.safetensors");
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      writer.declare("a", StoredType.F32, 2);
      writer.write("a", ByteBuffer.allocate(4));
    }
    try (var left = Files.list(folder)) {
      assertEquals(0, left.count());
    }
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      writer.declare("a", StoredType.F32, 2);
      writer.write("a", ByteBuffer.allocate(4));
      assertThrows(IllegalStateException.class, writer::commit, "half a tensor");
    }
    assertFalse(Files.exists(file));
  }

  @Test
  void readsAnyRangeThroughAnyBuffer() {
    Path file = folder.resolve("t.safetensors");
    byte[] data = new byte[3_000_001];
    new Random(2).nextBytes(data);
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      writer.declare("a", StoredType.U8, data.length);
      writer.write("a", ByteBuffer.wrap(data));
      writer.commit();
    }
    try (SafetensorsFile read = SafetensorsFile.open(file)) {
      TensorSource tensor = read.tensor("a");
      for (ByteBuffer buffer :
          List.of(ByteBuffer.allocate(2_500_000), ByteBuffer.allocateDirect(2_500_000))) {
        buffer.position(7).limit(2_400_000);
        tensor.read(500_000, buffer);
        assertEquals(buffer.limit(), buffer.position());
        assertEquals(2_400_000, buffer.limit());
        for (int i = 7; i < buffer.limit(); i += 997) {
          assertEquals(data[500_000 + i - 7], buffer.get(i));
        }
      }
      assertThrows(
          IndexOutOfBoundsException.class,
          () -> tensor.read(data.length - 3, ByteBuffer.allocate(4)));
      assertThrows(IndexOutOfBoundsException.class, () -> tensor.read(-1, ByteBuffer.allocate(4)));
    }
  }

  @Test
  void widensHalfTypesExactly() {
    Path file = folder.resolve("t.safetensors");
    // 1, -2, largest, smallest subnormal, infinity, negative zero
    short[] f16 = {0x3c00, (short) 0xc000, 0x7bff, 0x0001, 0x7c00, (short) 0x8000};
    short[] bf16 = {0x3f80, (short) 0xc000, 0x7f7f, 0x0001, 0x7f80, (short) 0x8000};
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      writer.declare("f16", StoredType.F16, 6).declare("bf16", StoredType.BF16, 6);
      writer.write("f16", shorts(f16));
      writer.write("bf16", shorts(bf16));
      writer.commit();
    }
    try (SafetensorsFile read = SafetensorsFile.open(file)) {
      assertArrayEquals(
          new float[] {1, -2, 65504, 0x1p-24f, Float.POSITIVE_INFINITY, -0f},
          read.tensor("f16").toFloats());
      assertArrayEquals(
          new float[] {1, -2, 0x1.FEp127f, 0x1p-133f, Float.POSITIVE_INFINITY, -0f},
          read.tensor("bf16").toFloats());
    }
  }

  private static ByteBuffer shorts(short[] values) {
    ByteBuffer bytes = ByteBuffer.allocate(2 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    for (short value : values) {
      bytes.putShort(value);
    }
    return bytes.flip();
  }

  @Test
  void refusesWhatIsNoFile() {
    assertRefused(() -> SafetensorsFile.open(folder.resolve("absent")), "no such file", "absent");
    assertRefused(() -> SafetensorsFile.open(folder), "found a directory");
  }

  @Test
  void refusesLengthsThatDoNotFit() throws IOException {
    Path tiny = folder.resolve("tiny");
    Files.write(tiny, new byte[7]);
    assertRefused(() -> SafetensorsFile.open(tiny), "at least 8 bytes", "found 7");
    byte[] header = "{}".getBytes(StandardCharsets.UTF_8);
    assertRefused(() -> SafetensorsFile.open(write(100_000_001, header, 0)), "100000001");
    assertRefused(() -> SafetensorsFile.open(write(-1, header, 0)), "18446744073709551615");
    assertRefused(() -> SafetensorsFile.open(write(1, header, 0)), "found the length 1");
    assertRefused(
        () -> SafetensorsFile.open(write(3, header, 0)), "header of 3 bytes", "truncated");
  }

  @Test
  void acceptsPaddingAndAnEmptyFile() throws IOException {
    try (SafetensorsFile read = SafetensorsFile.open(write("{}      ", 0))) {
      assertTrue(read.names().isEmpty());
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "[]|starts with '{'",
        "` {}`|starts with '{'",
        "{} x|header",
        "{\"a\":1}|an object",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}|found no data_offsets",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"extra\":1}}|extra",
        "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}|F33",
        "{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}|dtype to be a string",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}|shape to be a list",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}|negative",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}|63 bits",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}|more elements",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}|expected 8 bytes",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}|[4, 0]",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}|truncated",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}|two data_offsets",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}|at most 2",
        "{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}|whole bytes",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}|expected 0 bytes of data",
        "{\"__metadata__\":{\"a\":1}}|map of strings",
        "{\"__metadata__\":[]}|map of strings",
        "{\"a\"|JSON",
      })
  void refusesHeadersThatLie(String header, String part) throws IOException {
    Path file = write(header, 4);
    String message = assertRefused(() -> SafetensorsFile.open(file), part);
    assertTrue(message.startsWith(file.toString()), message);
  }

  @Test
  void refusesDuplicatesOverlapsAndHoles() throws IOException {
    String a = tensor("a", "F32", "[1]", 0, 4);
    assertRefused(() -> SafetensorsFile.open(write("{" + a + "," + a + "}", 4)), "uplicate", "'a'");
    assertRefused(
        () -> SafetensorsFile.open(write("{" + a + "," + tensor("b", "F32", "[1]", 2, 6) + "}", 6)),
        "'b'",
        "overlap");
    assertRefused(
        () -> SafetensorsFile.open(write("{" + a + "," + tensor("b", "F32", "[1]", 5, 9) + "}", 9)),
        "'b'",
        "hole");
    assertRefused(() -> SafetensorsFile.open(write("{" + a + "}", 5)), "found 5");
    byte[] notUtf8 = "{\"a\":0}".getBytes(StandardCharsets.UTF_8);
    notUtf8[2] = (byte) 0xff;
    assertRefused(() -> SafetensorsFile.open(write(notUtf8.length, notUtf8, 4)), "UTF-8");
  }

  @Test
  void namesInMessagesStayOnOneLine() throws IOException {
    Path file =
        write("{" + tensor("a\\n\\u001b[31m" + "x".repeat(5000), "F32", "[2]", 0, 4) + "}", 4);
    String message = assertRefused(() -> SafetensorsFile.open(file), "a\\n\\u001b[31mxxx", "...");
    assertTrue(message.length() < 600, message);
  }

  /**
   * Every prefix of a real file, and every file with one header byte changed, is read or refused
   * with one line.
   */
  @Test
  void noDamageGetsThrough() throws IOException {
    Path file = folder.resolve("good");
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      writer.declare("weight", StoredType.F32, 2, 3).declare("bias", StoredType.BF16, 3);
      writer.write("weight", new float[6]);
      writer.write("bias", ByteBuffer.allocate(6));
      writer.commit();
    }
    byte[] good = Files.readAllBytes(file);
    Path damaged = folder.resolve("damaged");
    for (int length = 0; length < good.length; length++) {
      Files.write(damaged, Arrays.copyOf(good, length));
      assertRefused(() -> SafetensorsFile.open(damaged));
    }
    int header = (int) ByteBuffer.wrap(good).order(ByteOrder.LITTLE_ENDIAN).getLong();
    Random random = new Random(3);
    int refused = 0;
    for (int at = 0; at < 8 + header; at++) {
      byte[] changed = good.clone();
      changed[at] = (byte) random.nextInt(256);
      Files.write(damaged, changed);
      try (SafetensorsFile read = SafetensorsFile.open(damaged)) {
        for (TensorSource tensor : read.tensors().values()) {
          tensor.toBytes();
        }
      } catch (InputException e) {
        refused++;
        assertEquals(1, String.valueOf(e.getMessage()).lines().count());
      }
    }
    // Names, metadata and padding may change without harm; the rest is structure.
    assertTrue(refused > header / 2, refused + " of " + header);
  }

  @Test
  void readsFilesOfTheReferenceLibrary() throws IOException {
    Path root = FixtureFiles.reference("quant4");
    int files = 0;
    try (var all = Files.newDirectoryStream(root, "*.safetensors")) {
      for (Path file : all) {
        try (SafetensorsFile read = SafetensorsFile.open(file)) {
          long bytes = read.tensors().values().stream().mapToLong(TensorSource::bytes).sum();
          assertTrue(bytes > 0 && bytes < Files.size(file), file.toString());
        }
        files++;
      }
    }
    assertTrue(files > 10, "found " + files);
  }
}
