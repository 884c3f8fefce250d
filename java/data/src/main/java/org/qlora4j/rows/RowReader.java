// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.rows;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;
import java.util.Locale;
import java.util.zip.GZIPInputStream;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.tukaani.xz.XZInputStream;

/**
 * Reads one file row by row in bounded memory. Blank lines are not rows. The header of a CSV or TSV
 * file is read first.
 *
 * <p>A row longer than {@code maxRowBytes} is given with its beginning and a problem. A quote that
 * is never closed would swallow the rest of a CSV file: that record is given as a bad row of one
 * line, and reading goes on with the next line.
 */
public final class RowReader implements AutoCloseable {
  /** Of a row that is too long, what is kept to show. */
  private static final int SHOWN_BYTES = 400;

  /** How far the end of a record that is too long is looked for, in longest rows. */
  private static final int LOOKED_AHEAD = 16;

  private static final int XZ_MEMORY_KIB = 256 << 10;

  private final Path path;
  private final int file;
  private final RowFormat format;
  private final int maxRowBytes;
  private final CountingStream compressed;
  private final InputStream in;
  private final ByteArrayOutputStream buffer = new ByteArrayOutputStream(4096);

  /** Lines that were read for a record which turned out not to be one. */
  private final Deque<Line> pushedBack = new ArrayDeque<>();

  private final RowParser parser;
  private final byte[] chunk = new byte[1 << 16];
  private int chunkAt;
  private int chunkEnd;
  private long line;

  /**
   * @param oddQuotes whether the line, all of it, has an odd number of quotes
   */
  private record Line(long number, byte[] bytes, boolean tooLong, boolean oddQuotes) {}

  /**
   * Opens a file.
   *
   * @param file index that the rows carry
   * @throws InputException when it cannot be read, or has no usable header
   */
  public RowReader(Path path, int file, RowFormat format, int maxRowBytes) {
    this.path = path;
    this.file = file;
    this.format = format;
    this.maxRowBytes = maxRowBytes;
    boolean opened = false;
    CountingStream stream = null;
    try {
      if (Files.isDirectory(path)) {
        throw new InputException(path + ": expected a file of rows, found a directory");
      }
      stream = new CountingStream(Files.newInputStream(path));
      this.compressed = stream;
      this.in = decompress(path, stream);
      this.parser = format == RowFormat.JSONL ? RowParser.jsonl() : header();
      opened = true;
    } catch (NoSuchFileException e) {
      throw new InputException("no such file: " + path, e);
    } catch (IOException e) {
      throw new InputException("cannot read " + path + ": " + e, e);
    } finally {
      if (!opened && stream != null) {
        closeQuietly(stream);
      }
    }
  }

  private static void closeQuietly(InputStream stream) {
    try {
      stream.close();
    } catch (IOException e) {
      // The failure that led here says more.
    }
  }

  private static InputStream decompress(Path path, InputStream in) throws IOException {
    String name = path.toString().toLowerCase(Locale.ROOT);
    if (name.endsWith(".gz")) {
      return new GZIPInputStream(in, 1 << 16);
    }
    return name.endsWith(".xz") ? new XZInputStream(in, XZ_MEMORY_KIB) : in;
  }

  private RowParser header() {
    RawRow first = next();
    if (first == null) {
      throw new InputException(
          path + ": expected a first line with the names of the columns, found an empty file");
    }
    BadRow problem = first.problem();
    try {
      if (problem != null) {
        throw problem;
      }
      List<String> names = RowParser.cells(format, RowParser.decode(first));
      return RowParser.table(format, names);
    } catch (BadRow e) {
      throw new InputException(
          path
              + ":1: expected the names of the columns, found a line that cannot be read: "
              + e.getMessage(),
          e);
    }
  }

  /** What turns this file's rows into fields; may be used by several threads. */
  public RowParser parser() {
    return parser;
  }

  /** Bytes of the file that were read, compressed where it is. */
  public long bytesRead() {
    return compressed.count;
  }

  /** The next row, or null at the end. */
  public @Nullable RawRow next() {
    try {
      Line first = nextLine();
      while (first != null && isBlank(first.bytes)) {
        first = nextLine();
      }
      if (first == null) {
        return null;
      }
      if (first.tooLong) {
        return format == RowFormat.CSV && first.oddQuotes ? longRecord(first) : tooLong(first);
      }
      return format == RowFormat.CSV
          ? record(first)
          : new RawRow(file, first.number, first.bytes, null);
    } catch (IOException e) {
      throw new UncheckedIOException("cannot read " + path + " after line " + line, e);
    }
  }

  private RawRow tooLong(Line first) {
    return new RawRow(
        file,
        first.number,
        first.bytes,
        new BadRow(BadRow.Kind.TOO_LONG, "longer than " + maxRowBytes + " bytes"));
  }

  /**
   * A CSV record: lines until every quote is closed. One that is too long is read to its end, so
   * that its lines are not taken for rows; where no end comes, or a quote closes in the middle of a
   * value, the first line had a quote too many and the others are rows.
   */
  private RawRow record(Line first) throws IOException {
    QuoteState state = new QuoteState();
    state.read(first.bytes);
    if (!state.open()) {
      return new RawRow(file, first.number, first.bytes, null);
    }
    Deque<Line> taken = new ArrayDeque<>();
    ByteArrayOutputStream record = new ByteArrayOutputStream(first.bytes.length * 2);
    record.writeBytes(first.bytes);
    long size = first.bytes.length;
    while (state.open()) {
      Line more = nextLine();
      if (more != null) {
        taken.addLast(more);
        // Of a line that is too long, the rest is gone; its quotes were counted.
        if (more.tooLong) {
          state.toggle(more.oddQuotes);
        } else {
          state.read(more.bytes);
        }
        size += more.tooLong ? maxRowBytes : more.bytes.length + 1;
      }
      if (more == null || state.broken || size > LOOKED_AHEAD * (long) maxRowBytes) {
        pushBack(taken);
        return new RawRow(
            file,
            first.number,
            first.bytes,
            new BadRow(BadRow.Kind.MALFORMED, "a quote that is not closed"));
      }
      if (size <= maxRowBytes) {
        record.write('\n');
        record.writeBytes(more.bytes);
      }
    }
    return size > maxRowBytes
        ? tooLong(first)
        : new RawRow(file, first.number, record.toByteArray(), null);
  }

  /** A CSV record whose first line is too long already and ends inside a quote. */
  private RawRow longRecord(Line first) throws IOException {
    Deque<Line> taken = new ArrayDeque<>();
    long size = 0;
    while (size <= LOOKED_AHEAD * (long) maxRowBytes) {
      Line more = nextLine();
      if (more == null) {
        break;
      }
      if (more.oddQuotes) {
        return tooLong(first);
      }
      taken.addLast(more);
      size += more.tooLong ? maxRowBytes : more.bytes.length + 1;
    }
    pushBack(taken);
    return tooLong(first);
  }

  private void pushBack(Deque<Line> taken) {
    while (!taken.isEmpty()) {
      pushedBack.addFirst(taken.removeLast());
    }
  }

  private @Nullable Line nextLine() throws IOException {
    Line earlier = pushedBack.pollFirst();
    if (earlier != null) {
      return earlier;
    }
    buffer.reset();
    if (!fill()) {
      return null;
    }
    line++;
    long size = 0;
    int quotes = 0;
    for (boolean ended = false; !ended && fill(); ) {
      int end = chunkAt;
      while (end < chunkEnd && chunk[end] != '\n') {
        quotes += chunk[end] == '"' ? 1 : 0;
        end++;
      }
      int length = end - chunkAt;
      buffer.write(chunk, chunkAt, (int) Math.max(0, Math.min(length, maxRowBytes - size)));
      size += length;
      ended = end < chunkEnd;
      chunkAt = ended ? end + 1 : end;
    }
    byte[] bytes = buffer.toByteArray();
    if (size > maxRowBytes) {
      return new Line(
          line, Arrays.copyOf(bytes, Math.min(bytes.length, SHOWN_BYTES)), true, quotes % 2 != 0);
    }
    int length = bytes.length;
    if (length > 0 && bytes[length - 1] == '\r') {
      length--;
    }
    int start = line == 1 && startsWithMark(bytes) ? 3 : 0;
    return new Line(
        line, Arrays.copyOfRange(bytes, start, Math.max(start, length)), false, quotes % 2 != 0);
  }

  /** Whether there is another byte in the chunk; reads the next chunk where there is none. */
  private boolean fill() throws IOException {
    if (chunkAt == chunkEnd) {
      chunkAt = 0;
      chunkEnd = Math.max(0, in.read(chunk));
    }
    return chunkAt < chunkEnd;
  }

  private static boolean startsWithMark(byte[] bytes) {
    return bytes.length >= 3
        && (bytes[0] & 0xff) == 0xef
        && (bytes[1] & 0xff) == 0xbb
        && (bytes[2] & 0xff) == 0xbf;
  }

  private static boolean isBlank(byte[] bytes) {
    for (byte b : bytes) {
      if (b != ' ' && b != '\t') {
        return false;
      }
    }
    return true;
  }

  @Override
  public void close() throws IOException {
    in.close();
  }

  /** Whether a quoted value is open, over the lines of a CSV record. */
  private static final class QuoteState {
    private boolean quoted;

    /** A quote closed in the middle of a value: it was the next record's opening one. */
    private boolean broken;

    void read(byte[] bytes) {
      // A line end inside a quoted value does not begin a value.
      boolean atStart = !quoted;
      for (int i = 0; i < bytes.length; i++) {
        byte b = bytes[i];
        if (quoted) {
          if (b == '"' && i + 1 < bytes.length && bytes[i + 1] == '"') {
            i++;
          } else if (b == '"') {
            quoted = false;
            broken |= i + 1 < bytes.length && bytes[i + 1] != ',';
          }
        } else if (b == '"' && atStart) {
          quoted = true;
          atStart = false;
        } else if (b == ',') {
          atStart = true;
        } else if (b != ' ') {
          atStart = false;
        }
      }
    }

    /** A line of which only the number of quotes is known. */
    void toggle(boolean oddQuotes) {
      quoted ^= oddQuotes;
    }

    boolean open() {
      return quoted;
    }
  }

  /** Counts the bytes that come from the file. */
  private static final class CountingStream extends InputStream {
    private final InputStream in;
    private long count;

    CountingStream(InputStream in) {
      this.in = in;
    }

    @Override
    public int read() throws IOException {
      int b = in.read();
      count += b < 0 ? 0 : 1;
      return b;
    }

    @Override
    public int read(byte[] bytes, int offset, int length) throws IOException {
      int read = in.read(bytes, offset, length);
      count += Math.max(0, read);
      return read;
    }

    /** GZIPInputStream asks for it between the members of a file. */
    @Override
    public int available() throws IOException {
      return in.available();
    }

    @Override
    public void close() throws IOException {
      in.close();
    }
  }
}
