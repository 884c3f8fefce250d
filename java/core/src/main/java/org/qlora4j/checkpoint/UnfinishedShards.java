// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.CRC32C;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;

/**
 * Which shards of an output directory are finished, kept in a file in it, so that a run that was
 * interrupted goes on. A shard counts only while its size and checksum are those it was finished
 * with, and only for the same work: what is made, from what.
 */
public final class UnfinishedShards {
  /** The file in the output directory; gone when the output is complete. */
  static final String STATE_FILE = ".q4j-shards.json";

  private static final int READ_BYTES = 1 << 20;
  private static final long MAX_STATE_BYTES = 64L << 20;

  private final Path directory;
  private final ObjectNode state;

  private UnfinishedShards(Path directory, ObjectNode state) {
    this.directory = directory;
    this.state = state;
  }

  /**
   * What an earlier run left in {@code directory}. Anything else than shards of the same work is
   * deleted.
   *
   * @param work a text that is the same only for the same result
   */
  public static UnfinishedShards open(Path directory, String work) throws IOException {
    Path file = directory.resolve(STATE_FILE);
    if (Files.isRegularFile(file)) {
      try {
        ObjectNode state = Json.readObject(file, MAX_STATE_BYTES);
        if (work.equals(state.path("work").asText()) && state.path("shards").isObject()) {
          return new UnfinishedShards(directory, state);
        }
      } catch (InputException e) {
        // A damaged list is none.
      }
    }
    AtomicOutput.clear(directory);
    ObjectNode state = Json.newObject();
    state.put("work", work);
    state.putObject("shards");
    return new UnfinishedShards(directory, state);
  }

  /** Whether the shard was finished and is as it was then. */
  public boolean isFinished(String shard) throws IOException {
    JsonNode entry = state.path("shards").path(shard);
    Path file = directory.resolve(shard);
    return entry.isObject()
        && Files.isRegularFile(file)
        && Files.size(file) == entry.path("bytes").asLong(-1)
        && checksum(file) == entry.path("crc32c").asLong(-1);
  }

  /** Number of shards that were finished. */
  public int count() {
    return state.path("shards").size();
  }

  /** Notes that the shard's file is complete. */
  public void finished(String shard) throws IOException {
    Path file = directory.resolve(shard);
    ObjectNode entry = ((ObjectNode) state.path("shards")).putObject(shard);
    entry.put("bytes", Files.size(file));
    entry.put("crc32c", checksum(file));
    AtomicOutput.write(
        directory.resolve(STATE_FILE), Json.pretty(state).getBytes(StandardCharsets.UTF_8));
  }

  /** All are finished: the list is not part of the result. */
  public void complete() throws IOException {
    Files.deleteIfExists(directory.resolve(STATE_FILE));
  }

  private static long checksum(Path file) throws IOException {
    CRC32C checksum = new CRC32C();
    ByteBuffer buffer = ByteBuffer.allocateDirect(READ_BYTES);
    try (FileChannel channel = FileChannel.open(file)) {
      while (channel.read(buffer.clear()) >= 0) {
        checksum.update(buffer.flip());
      }
    }
    return checksum.getValue();
  }
}
