// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/**
 * Memory that this process may have: what the machine has left for it, or its control group.
 *
 * @param bytes most resident memory of this process, what it has already included; {@link
 *     Long#MAX_VALUE} where the system does not tell
 * @param limitedBy "the machine" or "the control group"; or the name of the setting that says so
 */
public record MachineMemory(long bytes, String limitedBy) {

  /** The figures of this moment. */
  public static MachineMemory now() {
    return read(Path.of("/"), MemoryUse.now().residentBytes());
  }

  /** The same below another root of the file system, for a process with this resident memory. */
  public static MachineMemory read(Path root, long residentBytes) {
    long machine = Long.MAX_VALUE;
    long available = value(root.resolve("proc/meminfo"), "MemAvailable:", 1024);
    if (available > 0) {
      machine = available + residentBytes;
    }
    long group = controlGroup(root, residentBytes);
    return group < machine
        ? new MachineMemory(group, "the control group")
        : new MachineMemory(machine, "the machine");
  }

  /** The tightest limit among the process's control group and those above it, version 2 or 1. */
  private static long controlGroup(Path root, long residentBytes) {
    long least = Long.MAX_VALUE;
    for (String line : lines(root.resolve("proc/self/cgroup"))) {
      String[] parts = line.split(":", 3);
      if (parts.length < 3) {
        continue;
      }
      boolean unified = parts[0].equals("0") && parts[1].isEmpty();
      if (!unified && !List.of(parts[1].split(",")).contains("memory")) {
        continue;
      }
      Path mount = root.resolve(unified ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
      Path group = mount.resolve(parts[2].replaceFirst("^/+", "")).normalize();
      for (Path at = group; at != null && at.startsWith(mount); at = at.getParent()) {
        long limit = number(at.resolve(unified ? "memory.max" : "memory.limit_in_bytes"));
        // Page cache is given back under pressure; what other processes hold is not.
        long held = value(at.resolve("memory.stat"), unified ? "anon" : "total_rss", 1);
        if (limit < Long.MAX_VALUE) {
          least = Math.min(least, Math.max(0, limit - Math.max(0, held - residentBytes)));
        }
      }
    }
    return least;
  }

  private static long number(Path file) {
    List<String> lines = lines(file);
    if (lines.isEmpty() || !lines.get(0).strip().matches("\\d{1,18}")) {
      return Long.MAX_VALUE;
    }
    return Long.parseLong(lines.get(0).strip());
  }

  private static long value(Path file, String name, long unit) {
    for (String line : lines(file)) {
      String[] words = line.strip().split("\\s+", 3);
      if (words.length > 1 && words[0].equals(name) && words[1].matches("\\d{1,18}")) {
        return Long.parseLong(words[1]) * unit;
      }
    }
    return 0;
  }

  private static List<String> lines(Path file) {
    try {
      return Files.isReadable(file)
          ? Files.readAllLines(file, StandardCharsets.ISO_8859_1)
          : List.of();
    } catch (IOException e) {
      return List.of();
    }
  }

  /** "21.9 GiB that the machine has", or for a limit that was set "24.0 GiB (memory_limit)". */
  public String text() {
    if (bytes == Long.MAX_VALUE) {
      return "an unknown amount";
    }
    return limitedBy.startsWith("the ")
        ? Text.bytes(bytes) + " that " + limitedBy + " has"
        : Text.bytes(bytes) + " (" + limitedBy + ")";
  }
}
