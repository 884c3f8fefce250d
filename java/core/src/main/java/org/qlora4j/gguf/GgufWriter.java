// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;

/**
 * Writes a GGUF file (version 3, little-endian): metadata and tensors are declared, then the
 * tensors' data come in pieces of any size, then {@link #commit} moves the finished file into
 * place.
 *
 * <p>Layout: the magic, u32 version, u64 counts of tensors and of metadata; each key with its kind
 * and value; for each tensor its name, u32 number of dimensions, u64 dimensions (the row's length
 * first), u32 type, u64 offset; padding to the alignment; data, each tensor padded to it.
 */
public final class GgufWriter implements AutoCloseable {
  static final int MAGIC = 0x46554747; // "GGUF"
  static final int VERSION = 3;

  /** Default of {@code general.alignment}, which is then left out. */
  static final int ALIGNMENT = 32;

  private final Path target;
  private final AtomicOutput output;
  private final Map<String, GgufValue> metadata = new LinkedHashMap<>();
  private final Map<String, Region> regions = new LinkedHashMap<>();
  private @Nullable FileChannel channel;
  private long dataBytes = 0;

  /** Where a tensor's data goes, and how much of it has come. */
  private static final class Region {
    final GgufType type;
    final long[] dimensions;
    final long bytes;
    final long offset;
    long dataStart;
    long written;

    Region(GgufType type, long[] dimensions, long bytes, long offset) {
      this.type = type;
      this.dimensions = dimensions;
      this.bytes = bytes;
      this.offset = offset;
    }
  }

  private GgufWriter(Path target) {
    this.target = target;
    this.output = AtomicOutput.file(target);
  }

  /** A writer of {@code target}, which appears only at {@link #commit}. */
  public static GgufWriter create(Path target) {
    return new GgufWriter(target);
  }

  /** Adds a key, which is new. */
  public GgufWriter metadata(String key, GgufValue value) {
    if (channel != null || metadata.putIfAbsent(key, value) != null) {
      throw new IllegalArgumentException("key " + key + " comes twice or after data");
    }
    return this;
  }

  /**
   * Declares a tensor.
   *
   * @param dimensions 1 to 4, the row's length first; it fills whole blocks of the type
   */
  public GgufWriter declare(String name, GgufType type, long... dimensions) {
    if (dimensions.length < 1 || dimensions.length > 4) {
      throw new IllegalArgumentException("tensor " + name + ": 1 to 4 dimensions are possible");
    }
    long elements = 1;
    for (long dimension : dimensions) {
      if (dimension < 1) {
        throw new IllegalArgumentException("tensor " + name + ": dimension " + dimension);
      }
      elements = Math.multiplyExact(elements, dimension);
    }
    if (dimensions[0] % type.blockElements() != 0) {
      throw new IllegalArgumentException(
          "tensor " + name + ": rows of " + dimensions[0] + " do not fill blocks of " + type);
    }
    Region region = new Region(type, dimensions.clone(), type.bytes(elements), dataBytes);
    if (channel != null || regions.putIfAbsent(name, region) != null) {
      throw new IllegalArgumentException("tensor " + name + " declared twice or after data");
    }
    dataBytes = Math.addExact(dataBytes, align(region.bytes));
    return this;
  }

  /** Bytes of all tensors' data with their padding. */
  public long dataBytes() {
    return dataBytes;
  }

  /** Writes the next bytes of a declared tensor, from the buffer's position to its limit. */
  public void write(String name, ByteBuffer data) {
    Region region = regions.get(name);
    if (region == null || data.remaining() > region.bytes - region.written) {
      throw new IllegalArgumentException(
          "tensor " + name + ": not declared, or more bytes than it has");
    }
    try {
      FileChannel out = begin();
      while (data.hasRemaining()) {
        region.written += out.write(data, region.dataStart + region.written);
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + target, e);
    }
  }

  /** Completes the file, syncs it and moves it into place. */
  public void commit() {
    try {
      FileChannel out = begin();
      for (Map.Entry<String, Region> entry : regions.entrySet()) {
        Region region = entry.getValue();
        if (region.written != region.bytes) {
          throw new IllegalStateException(
              "tensor "
                  + entry.getKey()
                  + ": "
                  + region.written
                  + " of "
                  + region.bytes
                  + " bytes were written to "
                  + target);
        }
        ByteBuffer padding = ByteBuffer.allocate((int) (align(region.bytes) - region.bytes));
        while (padding.hasRemaining()) {
          out.write(padding, region.dataStart + region.bytes + padding.position());
        }
      }
      out.close();
      output.commit();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + target, e);
    }
  }

  /** Without a commit, nothing remains. */
  @Override
  public void close() {
    try (output) {
      if (channel != null) {
        channel.close();
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot close " + target, e);
    }
  }

  private static long align(long bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }

  private FileChannel begin() throws IOException {
    FileChannel open = channel;
    if (open != null) {
      return open;
    }
    Header header = new Header();
    header.u32(MAGIC);
    header.u32(VERSION);
    header.u64(regions.size());
    header.u64(metadata.size());
    metadata.forEach(
        (key, value) -> {
          header.string(key);
          header.value(value);
        });
    regions.forEach(
        (name, region) -> {
          header.string(name);
          header.u32(region.dimensions.length);
          for (long dimension : region.dimensions) {
            header.u64(dimension);
          }
          header.u32(region.type.code());
          header.u64(region.offset);
        });
    byte[] bytes = header.out.toByteArray();
    long dataStart = align(bytes.length);
    for (Region region : regions.values()) {
      region.dataStart = dataStart + region.offset;
    }
    open = FileChannel.open(output.path(), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
    channel = open;
    ByteBuffer start = ByteBuffer.allocate(Math.toIntExact(dataStart)).put(bytes).rewind();
    while (start.hasRemaining()) {
      open.write(start);
    }
    return open;
  }

  /** Everything before the data. */
  private static final class Header {
    final ByteArrayOutputStream out = new ByteArrayOutputStream();
    private final ByteBuffer scratch = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN);

    void u32(long value) {
      put(value, 4);
    }

    void u64(long value) {
      put(value, 8);
    }

    private void put(long value, int bytes) {
      scratch.putLong(0, value);
      out.write(scratch.array(), 0, bytes);
    }

    void string(String text) {
      byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
      u64(bytes.length);
      out.write(bytes, 0, bytes.length);
    }

    void value(GgufValue value) {
      if (value instanceof GgufValue.Scalar scalar) {
        u32(scalar.kind().code());
        scalar(scalar.kind(), scalar.value());
      } else if (value instanceof GgufValue.Array array) {
        u32(GgufValue.Kind.LIST_CODE);
        u32(array.kind().code());
        u64(array.values().size());
        array.values().forEach(element -> scalar(array.kind(), element));
      }
    }

    private void scalar(GgufValue.Kind kind, Object value) {
      switch (kind) {
        case STRING -> string((String) value);
        case BOOL -> put((Boolean) value ? 1 : 0, 1);
        case F32 -> u32(Float.floatToRawIntBits((Float) value));
        case F64 -> u64(Double.doubleToRawLongBits((Double) value));
        default -> put((Long) value, kind.leastBytes());
      }
    }
  }
}
