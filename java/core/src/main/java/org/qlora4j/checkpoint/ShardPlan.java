// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import org.qlora4j.common.Json;

/**
 * How a checkpoint's tensors are spread over files, under Hugging Face's names: one {@code
 * model.safetensors} where all fit, else {@code model-00001-of-00003.safetensors} and so on with an
 * index.
 *
 * @param shards in order
 */
public record ShardPlan(List<Shard> shards) {

  /** A tensor to write. */
  public record Entry(String name, StoredType type, List<Long> shape) {
    public Entry {
      shape = List.copyOf(shape);
    }

    /** A tensor of these dimensions. */
    public static Entry of(String name, StoredType type, long... shape) {
      return new Entry(name, type, Arrays.stream(shape).boxed().toList());
    }

    /** Number of elements. */
    public long elements() {
      return shape.stream().mapToLong(Long::longValue).reduce(1, Math::multiplyExact);
    }

    /** Bytes of its data. */
    public long bytes() {
      return Math.multiplyExact(elements(), (long) type.bits()) / 8;
    }
  }

  /** One file. */
  public record Shard(String file, List<Entry> entries) {
    public Shard {
      entries = List.copyOf(entries);
    }

    /** Bytes of its tensors. */
    public long bytes() {
      return entries.stream().mapToLong(Entry::bytes).sum();
    }

    /** A writer of this shard below {@code directory}, every tensor declared. */
    public SafetensorsWriter open(Path directory) {
      SafetensorsWriter writer = SafetensorsWriter.create(directory.resolve(file));
      for (Entry entry : entries) {
        writer.declare(
            entry.name(),
            entry.type(),
            entry.shape().stream().mapToLong(Long::longValue).toArray());
      }
      return writer;
    }
  }

  public ShardPlan {
    shards = List.copyOf(shards);
  }

  /**
   * Fills shards in order. A group's tensors stay together, so a group that is larger than the
   * limit gets a shard of its own.
   *
   * @param groups tensors that belong together, in order
   * @param shardBytes most bytes of tensors in a shard
   */
  public static ShardPlan of(List<List<Entry>> groups, long shardBytes) {
    List<List<Entry>> filled = new ArrayList<>();
    long bytes = 0;
    for (List<Entry> group : groups) {
      long more = group.stream().mapToLong(Entry::bytes).sum();
      if (filled.isEmpty() || (bytes > 0 && bytes + more > shardBytes)) {
        filled.add(new ArrayList<>());
        bytes = 0;
      }
      filled.get(filled.size() - 1).addAll(group);
      bytes += more;
    }
    List<Shard> shards = new ArrayList<>();
    for (int i = 0; i < filled.size(); i++) {
      String name =
          filled.size() == 1
              ? ModelCheckpoint.SINGLE_FILE
              : String.format(Locale.ROOT, "model-%05d-of-%05d.safetensors", i + 1, filled.size());
      shards.add(new Shard(name, filled.get(i)));
    }
    return new ShardPlan(shards);
  }

  /** Bytes of all tensors. */
  public long bytes() {
    return shards.stream().mapToLong(Shard::bytes).sum();
  }

  /** Writes the index beside the shards; a checkpoint in one piece has none. */
  public void writeIndex(Path directory) throws IOException {
    if (shards.size() < 2) {
      return;
    }
    ObjectNode index = Json.newObject();
    index.putObject("metadata").put("total_size", bytes());
    ObjectNode map = index.putObject("weight_map");
    for (Shard shard : shards) {
      shard.entries().forEach(entry -> map.put(entry.name(), shard.file()));
    }
    Files.writeString(directory.resolve(ModelCheckpoint.INDEX_FILE), Json.pretty(index));
  }
}
