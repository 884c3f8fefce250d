// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.qlora4j.common.InputException;
import org.qlora4j.common.InputFile;
import org.qlora4j.common.Text;

/**
 * A GGUF file, opened for positional reads; see {@link GgufWriter} for the layout. The file is not
 * trusted: every count, length and range is checked against the bytes that are there before
 * anything is allocated or read by it, and every failure is one line.
 */
public final class GgufFile implements AutoCloseable {
  private static final int MAX_DIMENSIONS = 4;
  private static final int MAX_ALIGNMENT = 1 << 20;

  /** Least bytes of a tensor's entry: name's length, number of dimensions, one, type, offset. */
  private static final int LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8;

  /** Least bytes of a key: its length, kind, one byte of value. */
  private static final int LEAST_KEY_BYTES = 8 + 4 + 1;

  /**
   * A tensor.
   *
   * @param dimensions the row's length first
   * @param start of its data in the file
   */
  public record Tensor(String name, GgufType type, List<Long> dimensions, long start, long bytes) {}

  private final InputFile file;
  private final Map<String, GgufValue> metadata;
  private final Map<String, Tensor> tensors;

  private GgufFile(InputFile file, Map<String, GgufValue> metadata, Map<String, Tensor> tensors) {
    this.file = file;
    this.metadata = Collections.unmodifiableMap(metadata);
    this.tensors = Collections.unmodifiableMap(tensors);
  }

  /** Opens a file and checks everything before its data. */
  public static GgufFile open(Path file) {
    return InputFile.open(file, "a GGUF file", opened -> new Parser(opened).parse());
  }

  /** The metadata in the file's order. */
  public Map<String, GgufValue> metadata() {
    return metadata;
  }

  /** The tensors in the file's order. */
  public Map<String, Tensor> tensors() {
    return tensors;
  }

  /** The tensor of this name; an InputException says that the file lacks it. */
  public Tensor tensor(String name) {
    Tensor tensor = tensors.get(name);
    if (tensor == null) {
      throw new InputException(
          file.path() + ": expected a tensor " + Text.quote(name) + ", found none");
    }
    return tensor;
  }

  /** All bytes of a tensor. */
  public byte[] read(Tensor tensor) {
    ByteBuffer bytes = ByteBuffer.allocate(Math.toIntExact(tensor.bytes()));
    file.read(bytes, tensor.start(), "tensor " + Text.quote(tensor.name()));
    return bytes.array();
  }

  @Override
  public void close() {
    file.close();
  }

  /** Reads from the start on through a buffer. */
  private static final class Parser {
    private final InputFile file;
    private final long size;
    private final ByteBuffer window =
        ByteBuffer.allocate(1 << 16).order(ByteOrder.LITTLE_ENDIAN).limit(0);
    private long filled = 0;

    Parser(InputFile file) {
      this.file = file;
      this.size = file.bytes();
    }

    GgufFile parse() {
      if (size < 24 || u32("magic") != GgufWriter.MAGIC) {
        throw wrong("expected a GGUF file, found another one or a truncated one");
      }
      long version = u32("version");
      if (version != 2 && version != GgufWriter.VERSION) {
        throw wrong("expected version 2 or 3, found " + version);
      }
      long tensorCount = count("tensors", LEAST_TENSOR_BYTES);
      long keyCount = count("keys", LEAST_KEY_BYTES);
      Map<String, GgufValue> metadata = new LinkedHashMap<>();
      for (long i = 0; i < keyCount; i++) {
        String key = string("a key");
        if (metadata.putIfAbsent(key, value(key)) != null) {
          throw wrong("key " + Text.quote(key) + " comes twice");
        }
      }
      long alignment = alignment(metadata);
      List<Tensor> relative = new ArrayList<>();
      for (long i = 0; i < tensorCount; i++) {
        relative.add(tensor(alignment));
      }
      long dataStart = (position() + alignment - 1) / alignment * alignment;
      return new GgufFile(file, metadata, place(relative, dataStart));
    }

    private long alignment(Map<String, GgufValue> metadata) {
      GgufValue value = metadata.get("general.alignment");
      if (value == null) {
        return GgufWriter.ALIGNMENT;
      }
      if (value instanceof GgufValue.Scalar scalar
          && scalar.kind() == GgufValue.Kind.U32
          && scalar.value() instanceof Long alignment
          && alignment >= 8
          && alignment <= MAX_ALIGNMENT
          && Long.bitCount(alignment) == 1) {
        return alignment;
      }
      throw wrong(
          "general.alignment: expected a power of two from 8 to "
              + MAX_ALIGNMENT
              + ", found "
              + Text.quote(value));
    }

    private Tensor tensor(long alignment) {
      String name = string("a tensor's name");
      long count = u32(name);
      if (count < 1 || count > MAX_DIMENSIONS) {
        throw wrong("tensor " + Text.quote(name) + ": expected 1 to 4 dimensions, found " + count);
      }
      List<Long> dimensions = new ArrayList<>();
      long elements = 1;
      for (int i = 0; i < count; i++) {
        long dimension = u64(name);
        try {
          elements = Math.multiplyExact(elements, dimension);
        } catch (ArithmeticException e) {
          dimension = -1;
        }
        if (dimension < 1) {
          throw wrong(
              "tensor "
                  + Text.quote(name)
                  + ": expected dimensions of at least 1 that can be"
                  + " multiplied, found others");
        }
        dimensions.add(dimension);
      }
      long code = u32(name);
      GgufType type = GgufType.byCode(code);
      if (type == null) {
        throw wrong(
            "tensor "
                + Text.quote(name)
                + ": expected a type among "
                + Arrays.toString(GgufType.values())
                + ", found number "
                + code);
      }
      if (dimensions.get(0) % type.blockElements() != 0) {
        throw wrong(
            "tensor "
                + Text.quote(name)
                + ": expected rows of whole blocks of "
                + type.blockElements()
                + ", found "
                + dimensions.get(0));
      }
      long offset = u64(name);
      if (offset < 0 || offset % alignment != 0) {
        throw wrong(
            "tensor "
                + Text.quote(name)
                + ": expected an offset that is a multiple of "
                + alignment
                + ", found "
                + Long.toUnsignedString(offset));
      }
      long bytes;
      try {
        bytes = type.bytes(elements);
      } catch (ArithmeticException e) {
        throw wrong("tensor " + Text.quote(name) + ": more bytes than can be counted");
      }
      return new Tensor(name, type, List.copyOf(dimensions), offset, bytes);
    }

    /** Within the file, and none over another. */
    private Map<String, Tensor> place(List<Tensor> relative, long dataStart) {
      Map<String, Tensor> placed = new LinkedHashMap<>();
      for (Tensor tensor : relative) {
        if (dataStart > size
            || tensor.start() > size - dataStart
            || tensor.bytes() > size - dataStart - tensor.start()) {
          throw wrong(
              "tensor "
                  + Text.quote(tensor.name())
                  + ": expected "
                  + tensor.bytes()
                  + " bytes of data within the file of "
                  + size
                  + "; it is truncated or lies");
        }
        Tensor absolute =
            new Tensor(
                tensor.name(),
                tensor.type(),
                tensor.dimensions(),
                dataStart + tensor.start(),
                tensor.bytes());
        if (placed.putIfAbsent(tensor.name(), absolute) != null) {
          throw wrong("tensor " + Text.quote(tensor.name()) + " comes twice");
        }
      }
      long end = dataStart;
      for (Tensor tensor :
          placed.values().stream().sorted(Comparator.comparingLong(Tensor::start)).toList()) {
        if (tensor.start() < end) {
          throw wrong("tensor " + Text.quote(tensor.name()) + " lies over another one");
        }
        end = tensor.start() + tensor.bytes();
      }
      return placed;
    }

    private GgufValue value(String key) {
      long code = u32(key);
      if (code == GgufValue.Kind.LIST_CODE) {
        GgufValue.Kind kind = kind(key, u32(key));
        long count = count("values of " + Text.quote(key), kind.leastBytes());
        List<Object> values = new ArrayList<>();
        for (long i = 0; i < count; i++) {
          values.add(scalar(key, kind));
        }
        return new GgufValue.Array(kind, values);
      }
      GgufValue.Kind kind = kind(key, code);
      return new GgufValue.Scalar(kind, scalar(key, kind));
    }

    private GgufValue.Kind kind(String key, long code) {
      GgufValue.Kind kind = GgufValue.Kind.byCode(code);
      if (kind == null) {
        throw wrong(
            "key "
                + Text.quote(key)
                + ": expected a scalar or a list of scalars, found the kind "
                + code);
      }
      return kind;
    }

    private Object scalar(String key, GgufValue.Kind kind) {
      return switch (kind) {
        case U8 -> (long) (need(1, key).get() & 0xff);
        case I8 -> (long) need(1, key).get();
        case U16 -> (long) (need(2, key).getShort() & 0xffff);
        case I16 -> (long) need(2, key).getShort();
        case U32 -> u32(key);
        case I32 -> (long) need(4, key).getInt();
        case F32 -> need(4, key).getFloat();
        case F64 -> need(8, key).getDouble();
        case U64, I64 -> u64(key);
        case BOOL -> {
          int value = need(1, key).get();
          if (value != 0 && value != 1) {
            throw wrong("key " + Text.quote(key) + ": expected 0 or 1, found " + value);
          }
          yield value == 1;
        }
        case STRING -> string(key);
      };
    }

    private String string(String what) {
      long length = u64(what);
      if (length < 0 || length > size - position() || length > Integer.MAX_VALUE - 8) {
        throw wrong(
            Text.quote(what)
                + ": expected a text within the file, found the length "
                + Long.toUnsignedString(length));
      }
      byte[] bytes = new byte[(int) length];
      int done = 0;
      while (done < bytes.length) {
        int next = Math.min(window.capacity(), bytes.length - done);
        need(next, what).get(bytes, done, next);
        done += next;
      }
      String text = Text.utf8(bytes);
      if (text == null) {
        throw wrong(Text.quote(what) + ": expected UTF-8, found bytes that are not");
      }
      return text;
    }

    /** A number of things that each take some bytes of what is left. */
    private long count(String what, int leastBytes) {
      long count = u64(what);
      if (count < 0 || count > (size - position()) / leastBytes) {
        throw wrong(
            "expected as many "
                + what
                + " as the file has room for, found the number "
                + Long.toUnsignedString(count));
      }
      return count;
    }

    private long u32(String what) {
      return need(4, what).getInt() & 0xffff_ffffL;
    }

    private long u64(String what) {
      return need(8, what).getLong();
    }

    /** The window with at least that many bytes from its position on. */
    private ByteBuffer need(int bytes, String what) {
      if (window.remaining() >= bytes) {
        return window;
      }
      window.compact();
      if (size - filled < bytes - window.position()) {
        throw wrong("the file ends within " + Text.quote(what));
      }
      window.limit((int) Math.min(window.capacity(), window.position() + (size - filled)));
      int more = window.remaining();
      file.read(window, filled, Text.quote(what));
      filled += more;
      return window.flip();
    }

    private long position() {
      return filled - window.remaining();
    }

    private InputException wrong(String message) {
      return new InputException(file.path() + ": " + message);
    }
  }
}
