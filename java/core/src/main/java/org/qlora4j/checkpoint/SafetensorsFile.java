// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.InputFile;
import org.qlora4j.common.Text;

/**
 * A safetensors file, opened for positional reads. The file is not trusted: the header's length,
 * its JSON, every type, shape and byte range are checked before anything is read by them, and every
 * failure is one line with the file and the tensor.
 *
 * <p>Layout: u64 little-endian length N of the header, N bytes of JSON {name: {dtype, shape,
 * data_offsets: [begin, end]}} with an optional {@code __metadata__} map of strings, then the data.
 * Ranges are relative to the data's start, do not overlap and leave no holes.
 */
public final class SafetensorsFile implements AutoCloseable {
  /** The format's own bound on the header. */
  public static final long MAX_HEADER_BYTES = 100_000_000;

  private static final int MAX_DIMENSIONS = 32;

  private static final JsonFactory STRICT =
      JsonFactory.builder()
          .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
          .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(8).build())
          .build();

  private final InputFile file;
  private final Map<String, TensorSource> tensors;
  private final Map<String, String> metadata;

  private SafetensorsFile(
      InputFile file, Map<String, TensorSource> tensors, Map<String, String> metadata) {
    this.file = file;
    this.tensors = tensors;
    this.metadata = metadata;
  }

  /** Opens a file and checks its header. */
  public static SafetensorsFile open(Path file) {
    return InputFile.open(file, "a safetensors file", opened -> new Header(opened).parse());
  }

  /** The file. */
  public Path file() {
    return file.path();
  }

  /** The `__metadata__` map, empty without one. */
  public Map<String, String> metadata() {
    return metadata;
  }

  /** All tensors by name, in the order of their data in the file. */
  public Map<String, TensorSource> tensors() {
    return tensors;
  }

  /** The tensor of this name, or null. */
  public @Nullable TensorSource find(String name) {
    return tensors.get(name);
  }

  /** The tensor of this name; an InputException says that the file lacks it. */
  public TensorSource tensor(String name) {
    TensorSource tensor = tensors.get(name);
    if (tensor == null) {
      String near = Text.nearest(name, tensors.keySet());
      throw new InputException(
          file.path()
              + ": expected a tensor "
              + Text.quote(name)
              + ", found none of that name among "
              + tensors.size()
              + (near == null ? "" : "; the nearest is " + Text.quote(near)));
    }
    return tensor;
  }

  @Override
  public void close() {
    file.close();
  }

  private static final class Entry implements TensorSource {
    private final InputFile file;
    private final long dataStart;
    private final String name;
    private final StoredType storedType;
    private final long[] dimensions;
    private final long begin;
    private final long end;

    Entry(Header header, String name, StoredType storedType, long[] dimensions, long[] offsets) {
      this.file = header.file;
      this.dataStart = header.dataStart;
      this.name = name;
      this.storedType = storedType;
      this.dimensions = dimensions;
      this.begin = offsets[0];
      this.end = offsets[1];
    }

    long begin() {
      return begin;
    }

    long end() {
      return end;
    }

    @Override
    public String name() {
      return name;
    }

    @Override
    public StoredType storedType() {
      return storedType;
    }

    @Override
    public Path file() {
      return file.path();
    }

    @Override
    public long[] shape() {
      return dimensions.clone();
    }

    @Override
    public long bytes() {
      return end - begin;
    }

    @Override
    public void read(long byteOffset, ByteBuffer destination) {
      if (byteOffset < 0
          || byteOffset > bytes()
          || destination.remaining() > bytes() - byteOffset) {
        throw new IndexOutOfBoundsException(
            "bytes "
                + byteOffset
                + " to "
                + (byteOffset + destination.remaining())
                + " of tensor "
                + name
                + " with "
                + bytes()
                + " bytes");
      }
      file.read(destination, dataStart + begin + byteOffset, "tensor " + Text.quote(name));
    }
  }

  /** Parses and checks one header. */
  private static final class Header {
    private final InputFile file;
    private final Map<String, String> metadata = new LinkedHashMap<>();
    private final List<Entry> entries = new ArrayList<>();
    private long dataStart;
    private long dataBytes;

    Header(InputFile file) {
      this.file = file;
    }

    SafetensorsFile parse() {
      long fileBytes = file.bytes();
      if (fileBytes < 8) {
        throw wrong(
            "expected at least 8 bytes, found "
                + fileBytes
                + "; the file is truncated or not safetensors");
      }
      ByteBuffer lengthBytes = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN);
      file.read(lengthBytes, 0, "header");
      long length = lengthBytes.getLong(0);
      if (length < 2 || length > MAX_HEADER_BYTES) {
        throw wrong(
            "expected a header of 2 to "
                + MAX_HEADER_BYTES
                + " bytes, found the length "
                + Long.toUnsignedString(length)
                + "; the file is not safetensors");
      }
      if (length > fileBytes - 8) {
        throw wrong(
            "expected a header of "
                + length
                + " bytes, found only "
                + (fileBytes - 8)
                + " bytes after the length; the file is truncated");
      }
      dataStart = 8 + length;
      dataBytes = fileBytes - dataStart;
      ByteBuffer header = ByteBuffer.allocate((int) length);
      file.read(header, 8, "header");
      parseJson(header.array());
      Map<String, TensorSource> tensors = checkRanges();
      return new SafetensorsFile(file, tensors, Collections.unmodifiableMap(metadata));
    }

    private void parseJson(byte[] header) {
      if (header[0] != '{') {
        throw wrong(
            "expected a header that starts with '{', found byte 0x"
                + Integer.toHexString(header[0] & 0xff));
      }
      String text = Text.utf8(header);
      if (text == null) {
        throw wrong("expected a header in UTF-8, found bytes that are not");
      }
      try (JsonParser parser = STRICT.createParser(text)) {
        parser.nextToken();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
          String name = parser.currentName();
          if (name.equals("__metadata__")) {
            parseMetadata(parser);
          } else {
            entries.add(parseTensor(parser, name));
          }
        }
        if (parser.nextToken() != null) {
          throw wrong("expected nothing after the header's JSON object, found more");
        }
      } catch (JsonProcessingException e) {
        throw wrong("the header is not valid JSON: " + e.getOriginalMessage());
      } catch (IOException e) {
        throw new IllegalStateException("a text cannot fail to be read", e);
      }
    }

    private void parseMetadata(JsonParser parser) throws IOException {
      JsonToken token = parser.nextToken();
      if (token == JsonToken.VALUE_NULL) {
        return;
      }
      if (token != JsonToken.START_OBJECT) {
        throw wrong("expected __metadata__ to be a map of strings, found " + token);
      }
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String key = parser.currentName();
        if (parser.nextToken() != JsonToken.VALUE_STRING) {
          throw wrong(
              "expected __metadata__ to be a map of strings, found another value for "
                  + Text.quote(key));
        }
        metadata.put(key, parser.getText());
      }
    }

    private Entry parseTensor(JsonParser parser, String name) throws IOException {
      StoredType type = null;
      long[] shape = null;
      long[] offsets = null;
      if (parser.nextToken() != JsonToken.START_OBJECT) {
        throw wrong(
            name,
            "expected an object with dtype, shape and data_offsets, found "
                + parser.currentToken());
      }
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        parser.nextToken();
        switch (field) {
          case "dtype" -> {
            if (parser.currentToken() != JsonToken.VALUE_STRING) {
              throw wrong(name, "expected dtype to be a string, found " + parser.currentToken());
            }
            type = StoredType.byName(parser.getText());
            if (type == null) {
              throw wrong(
                  name,
                  "expected a known dtype such as F32, BF16 or U8, found "
                      + Text.quote(parser.getText()));
            }
          }
          case "shape" -> shape = integers(parser, name, "shape", MAX_DIMENSIONS);
          case "data_offsets" -> offsets = integers(parser, name, "data_offsets", 2);
          default ->
              throw wrong(
                  name,
                  "expected dtype, shape and data_offsets, found the field " + Text.quote(field));
        }
      }
      if (type == null || shape == null || offsets == null) {
        throw wrong(
            name,
            "expected dtype, shape and data_offsets, found no "
                + (type == null ? "dtype" : shape == null ? "shape" : "data_offsets"));
      }
      if (offsets.length != 2) {
        throw wrong(name, "expected two data_offsets, found " + offsets.length);
      }
      checkBytes(name, type, shape, offsets);
      return new Entry(this, name, type, shape, offsets);
    }

    private void checkBytes(String name, StoredType type, long[] shape, long[] offsets) {
      if (offsets[0] > offsets[1] || offsets[1] > dataBytes) {
        throw wrong(
            name,
            "expected data_offsets within the "
                + dataBytes
                + " bytes of data, found "
                + Arrays.toString(offsets)
                + (offsets[0] > offsets[1] ? "" : "; the file is truncated or its header lies"));
      }
      long bits = type.bits();
      try {
        for (long dimension : shape) {
          bits = Math.multiplyExact(bits, dimension);
        }
      } catch (ArithmeticException e) {
        throw wrong(
            name, "the shape " + Arrays.toString(shape) + " has more elements than can be counted");
      }
      if (bits % 8 != 0) {
        throw wrong(
            name,
            "the shape " + Arrays.toString(shape) + " of " + type + " does not fill whole bytes");
      }
      if (bits / 8 != offsets[1] - offsets[0]) {
        throw wrong(
            name,
            "expected "
                + bits / 8
                + " bytes for "
                + type
                + " "
                + Arrays.toString(shape)
                + ", found "
                + (offsets[1] - offsets[0])
                + " in data_offsets "
                + Arrays.toString(offsets));
      }
    }

    private long[] integers(JsonParser parser, String name, String field, int most)
        throws IOException {
      if (parser.currentToken() != JsonToken.START_ARRAY) {
        throw wrong(
            name,
            "expected " + field + " to be a list of integers, found " + parser.currentToken());
      }
      long[] values = new long[most];
      int count = 0;
      while (parser.nextToken() != JsonToken.END_ARRAY) {
        if (parser.currentToken() != JsonToken.VALUE_NUMBER_INT || count == most) {
          throw wrong(name, "expected " + field + " to be a list of at most " + most + " integers");
        }
        long value;
        try {
          value = parser.getLongValue();
        } catch (JsonProcessingException e) {
          throw wrong(
              name,
              "expected integers of at most 63 bits in "
                  + field
                  + ", found "
                  + Text.quote(parser.getText()));
        }
        if (value < 0) {
          throw wrong(name, "expected no negative number in " + field + ", found " + value);
        }
        values[count++] = value;
      }
      return Arrays.copyOf(values, count);
    }

    private Map<String, TensorSource> checkRanges() {
      entries.sort(Comparator.comparingLong(Entry::begin).thenComparingLong(Entry::end));
      long covered = 0;
      Map<String, TensorSource> tensors = new LinkedHashMap<>();
      for (Entry entry : entries) {
        if (entry.begin() != covered) {
          throw wrong(
              entry.name(),
              "expected its data to start at byte "
                  + covered
                  + " where the tensor before ends, found "
                  + entry.begin()
                  + (entry.begin() < covered ? "; they overlap" : "; there is a hole"));
        }
        covered = entry.end();
        tensors.put(entry.name(), entry);
      }
      if (covered != dataBytes) {
        throw wrong(
            "expected " + covered + " bytes of data as the header says, found " + dataBytes);
      }
      return Collections.unmodifiableMap(tensors);
    }

    private InputException wrong(String message) {
      return new InputException(file.path() + ": " + message);
    }

    private InputException wrong(String tensor, String message) {
      return new InputException(file.path() + ": tensor " + Text.quote(tensor) + ": " + message);
    }
  }

  /** The tensors' names in the order of their data. */
  public Collection<String> names() {
    return tensors.keySet();
  }
}
