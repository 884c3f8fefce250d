// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/**
 * A file that others wrote, open for reads at positions. Every failure is one line that names the
 * file.
 */
public final class InputFile implements AutoCloseable {
  /**
   * Reads go through slices of this size, so that a heap buffer never makes the JDK allocate a
   * direct one of its size.
   */
  private static final int READ_SLICE = 1 << 20;

  private final Path path;
  private final FileChannel channel;
  private final long bytes;

  private InputFile(Path path, FileChannel channel, long bytes) {
    this.path = path;
    this.channel = channel;
    this.bytes = bytes;
  }

  /** Makes something of a file that was just opened, and keeps it open. */
  public interface Parser<T> {
    /** Checks what has to be checked before the file can be used. */
    T parse(InputFile file);
  }

  /**
   * Opens a file and parses it; where that fails it is closed again.
   *
   * @param kind "a GGUF file", for messages
   */
  public static <T> T open(Path path, String kind, Parser<T> parser) {
    if (Files.isDirectory(path)) {
      throw new InputException(path + ": expected " + kind + ", found a directory");
    }
    InputFile file;
    try {
      FileChannel channel = FileChannel.open(path, StandardOpenOption.READ);
      file = new InputFile(path, channel, channel.size());
    } catch (NoSuchFileException e) {
      throw new InputException("no such file: " + path, e);
    } catch (IOException e) {
      throw new InputException("cannot read " + path + ": " + e, e);
    }
    boolean parsed = false;
    try {
      T result = parser.parse(file);
      parsed = true;
      return result;
    } finally {
      if (!parsed) {
        file.close();
      }
    }
  }

  /** Where it is. */
  public Path path() {
    return path;
  }

  /** Its length when it was opened. */
  public long bytes() {
    return bytes;
  }

  /**
   * Fills the buffer from its position to its limit.
   *
   * @param position in the file
   * @param what is read, for messages
   */
  public void read(ByteBuffer destination, long position, String what) {
    int limit = destination.limit();
    long at = position;
    try {
      while (destination.position() < limit) {
        destination.limit(Math.min(limit, destination.position() + READ_SLICE));
        int read = channel.read(destination, at);
        if (read < 0) {
          throw new InputException(
              path + ": " + what + ": the file became shorter while it was read, at byte " + at);
        }
        at += read;
      }
    } catch (IOException e) {
      throw new InputException(path + ": " + what + ": cannot read: " + e, e);
    } finally {
      destination.limit(limit);
    }
  }

  @Override
  public void close() {
    try {
      channel.close();
    } catch (IOException e) {
      // Closing a file that was only read loses nothing.
    }
  }
}
