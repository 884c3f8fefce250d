// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * Writes a safetensors file tensor by tensor: first every tensor is declared, then their data comes
 * in any order and in pieces of any size, then {@link #commit} moves the finished file into place.
 * Data starts at a multiple of 8 bytes, and tensors lie by falling element size and then by name,
 * so that each is aligned to its element.
 */
public final class SafetensorsWriter implements AutoCloseable {
  private static final int WRITE_SLICE = 1 << 20;

  private final Path target;
  private final AtomicOutput output;
  private final Map<String, String> metadata = new LinkedHashMap<>();
  private final Map<String, Region> regions = new LinkedHashMap<>();
  private @Nullable FileChannel channel;

  /** Where a tensor's data goes, and how much of it has come. */
  private static final class Region {
    final String name;
    final StoredType type;
    final long[] shape;
    final long bytes;
    long start;
    long written;

    Region(String name, StoredType type, long[] shape, long bytes) {
      this.name = name;
      this.type = type;
      this.shape = shape;
      this.bytes = bytes;
    }
  }

  private SafetensorsWriter(Path target) {
    this.target = target;
    this.output = AtomicOutput.file(target);
    metadata.put("format", "pt");
  }

  /** A writer of `target`, which appears only at {@link #commit}. */
  public static SafetensorsWriter create(Path target) {
    return new SafetensorsWriter(target);
  }

  /** Adds an entry of the `__metadata__` map; "format" is "pt" already. */
  public SafetensorsWriter metadata(String key, String value) {
    metadata.put(key, value);
    return this;
  }

  /** Declares a tensor. All are declared before the first data. */
  public SafetensorsWriter declare(String name, StoredType type, long... shape) {
    if (channel != null) {
      throw new IllegalStateException(
          "tensor " + name + " declared after data was written to " + target);
    }
    long bits = type.bits();
    for (long dimension : shape) {
      if (dimension < 0) {
        throw new IllegalArgumentException("tensor " + name + ": negative dimension " + dimension);
      }
      bits = Math.multiplyExact(bits, dimension);
    }
    if (bits % 8 != 0) {
      throw new IllegalArgumentException(
          "tensor " + name + ": " + bits + " bits do not fill whole bytes");
    }
    if (name.equals("__metadata__")
        || regions.putIfAbsent(name, new Region(name, type, shape.clone(), bits / 8)) != null) {
      throw new IllegalArgumentException("tensor " + name + " declared twice");
    }
    return this;
  }

  /**
   * Writes the next bytes of a declared tensor, from the buffer's position to its limit,
   * little-endian.
   */
  public void write(String name, ByteBuffer data) {
    Region region = regions.get(name);
    if (region == null) {
      throw new IllegalArgumentException("tensor " + name + " was not declared");
    }
    if (data.remaining() > region.bytes - region.written) {
      throw new IllegalArgumentException(
          "tensor "
              + name
              + ": "
              + data.remaining()
              + " bytes after "
              + region.written
              + " of "
              + region.bytes);
    }
    try {
      FileChannel out = begin();
      int limit = data.limit();
      while (data.position() < limit) {
        data.limit(Math.min(limit, data.position() + WRITE_SLICE));
        region.written += out.write(data, region.start + region.written);
        data.limit(limit);
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + target, e);
    }
  }

  /** Writes a whole f32 tensor. */
  public void write(String name, float[] values) {
    ByteBuffer buffer =
        ByteBuffer.allocate((int) Math.min(4L * values.length, WRITE_SLICE))
            .order(ByteOrder.LITTLE_ENDIAN);
    int done = 0;
    while (done < values.length) {
      int count = Math.min(values.length - done, buffer.capacity() / 4);
      buffer.clear();
      buffer.asFloatBuffer().put(values, done, count);
      write(name, buffer.limit(count * 4));
      done += count;
    }
  }

  /** Completes the file, syncs it and moves it into place. */
  public void commit() {
    try {
      FileChannel out = begin();
      for (Region region : regions.values()) {
        if (region.written != region.bytes) {
          throw new IllegalStateException(
              "tensor "
                  + region.name
                  + ": "
                  + region.written
                  + " of "
                  + region.bytes
                  + " bytes were written to "
                  + target);
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
    try {
      if (channel != null) {
        channel.close();
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot close " + target, e);
    } finally {
      output.close();
    }
  }

  private FileChannel begin() throws IOException {
    FileChannel open = channel;
    if (open != null) {
      return open;
    }
    List<Region> order = new ArrayList<>(regions.values());
    order.sort(Comparator.comparingInt((Region r) -> -r.type.bits()).thenComparing(r -> r.name));
    ObjectNode header = Json.newObject();
    ObjectNode meta = header.putObject("__metadata__");
    metadata.forEach(meta::put);
    long offset = 0;
    for (Region region : order) {
      ObjectNode entry = header.putObject(region.name);
      entry.put("dtype", region.type.name());
      ArrayNode shape = entry.putArray("shape");
      for (long dimension : region.shape) {
        shape.add(dimension);
      }
      region.start = offset;
      offset = Math.addExact(offset, region.bytes);
      entry.putArray("data_offsets").add(region.start).add(offset);
    }
    byte[] json = Json.compact(header).getBytes(StandardCharsets.UTF_8);
    int padded = Math.addExact(json.length, 7) & -8;
    if (padded > SafetensorsFile.MAX_HEADER_BYTES) {
      throw new IllegalStateException(
          "the header of " + Text.quote(target) + " would have " + padded + " bytes");
    }
    ByteBuffer start = ByteBuffer.allocate(8 + padded).order(ByteOrder.LITTLE_ENDIAN);
    start.putLong(padded).put(json);
    while (start.hasRemaining()) {
      start.put((byte) ' ');
    }
    start.flip();
    for (Region region : order) {
      region.start += start.limit();
    }
    open = FileChannel.open(output.path(), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
    channel = open;
    while (start.hasRemaining()) {
      open.write(start);
    }
    return open;
  }
}
