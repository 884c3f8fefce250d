// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.qlora4j.common.MachineMemory;

/**
 * What Linux says of this machine's CPU and memory.
 *
 * @param cpu model name
 * @param features which of the instruction sets that the packs use the CPU has, by their usual
 *     names
 * @param onlineCpus CPUs of the machine
 * @param allowedCpus CPUs in the affinity mask of this process
 * @param quotaCpus CPUs that the cgroup's quota grants, or 0 without a quota
 * @param lastLevelCacheBytes size of the last-level cache of the first CPU, or 0 where the system
 *     does not tell
 * @param availableBytes memory that a process may still take without swapping, or 0 where the
 *     system does not tell
 */
public record Machine(
    String cpu,
    Map<String, Boolean> features,
    int onlineCpus,
    int allowedCpus,
    double quotaCpus,
    long lastLevelCacheBytes,
    long availableBytes) {

  /** Flags of /proc/cpuinfo behind each name. */
  private static final Map<String, List<String>> FEATURES = new LinkedHashMap<>();

  static {
    FEATURES.put("AVX2", List.of("avx2", "fma", "f16c"));
    FEATURES.put("AVX-512", List.of("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"));
    FEATURES.put("AVX512-BF16", List.of("avx512_bf16"));
    FEATURES.put("AVX512-VNNI", List.of("avx512_vnni"));
    FEATURES.put("AMX", List.of("amx_tile", "amx_bf16", "amx_int8"));
  }

  /** This machine, now. */
  public static Machine now() {
    return read(Path.of("/"));
  }

  /** The machine that the files below {@code root} describe. */
  static Machine read(Path root) {
    String model = "unknown";
    int cpus = 0;
    Set<String> flags = Set.of();
    for (String line : lines(root.resolve("proc/cpuinfo"))) {
      String value = line.substring(line.indexOf(':') + 1).strip();
      if (line.startsWith("model name") && cpus++ == 0) {
        model = value;
      } else if (line.startsWith("flags") && flags.isEmpty()) {
        flags = Set.copyOf(List.of(value.split("\\s+")));
      }
    }
    Map<String, Boolean> features = new LinkedHashMap<>();
    for (Map.Entry<String, List<String>> feature : FEATURES.entrySet()) {
      features.put(feature.getKey(), flags.containsAll(feature.getValue()));
    }
    return new Machine(
        model,
        features,
        Math.max(cpus, 1),
        allowedCpus(root, Math.max(cpus, 1)),
        quota(root),
        lastLevelCache(root.resolve("sys/devices/system/cpu/cpu0/cache")),
        available(root));
  }

  private static int allowedCpus(Path root, int otherwise) {
    for (String line : lines(root.resolve("proc/self/status"))) {
      if (line.startsWith("Cpus_allowed_list:")) {
        int count = 0;
        for (String range : line.substring(line.indexOf(':') + 1).strip().split(",", -1)) {
          String[] ends = range.split("-", 2);
          count += (int) (number(ends[ends.length - 1]) - number(ends[0])) + 1;
        }
        return count;
      }
    }
    return otherwise;
  }

  private static double quota(Path root) {
    List<String> unified = lines(root.resolve("sys/fs/cgroup/cpu.max"));
    if (!unified.isEmpty()) {
      String[] words = unified.get(0).split(" ", 2);
      return words[0].equals("max") || words.length < 2
          ? 0
          : (double) number(words[0]) / number(words[1]);
    }
    List<String> quota = lines(root.resolve("sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
    List<String> period = lines(root.resolve("sys/fs/cgroup/cpu/cpu.cfs_period_us"));
    // -1 is no quota.
    return quota.isEmpty() || period.isEmpty() || quota.get(0).startsWith("-")
        ? 0
        : (double) number(quota.get(0)) / number(period.get(0));
  }

  private static long lastLevelCache(Path caches) {
    long level = 0;
    long bytes = 0;
    for (int i = 0; Files.isDirectory(caches.resolve("index" + i)); i++) {
      Path cache = caches.resolve("index" + i);
      List<String> levels = lines(cache.resolve("level"));
      List<String> sizes = lines(cache.resolve("size"));
      if (!levels.isEmpty() && !sizes.isEmpty() && number(levels.get(0)) > level) {
        level = number(levels.get(0));
        String size = sizes.get(0);
        bytes = number(size) * (size.endsWith("M") ? 1 << 20 : size.endsWith("K") ? 1 << 10 : 1);
      }
    }
    return bytes;
  }

  private static long available(Path root) {
    long bytes = MachineMemory.read(root, 0).bytes();
    return bytes == Long.MAX_VALUE ? 0 : bytes;
  }

  /** The digits of a text as a number; 0 without any. */
  private static long number(String text) {
    String digits = text.replaceAll("[^0-9]", "");
    return digits.isEmpty() ? 0 : Long.parseLong(digits);
  }

  private static List<String> lines(Path file) {
    try {
      return new ArrayList<>(Files.readAllLines(file, StandardCharsets.ISO_8859_1));
    } catch (IOException e) {
      return List.of();
    }
  }

  /**
   * How much memory one must go through so that nothing of it is in a cache when one comes back:
   * four times the last-level cache, or 1 GB where that is not known; an eighth of the available
   * memory at most.
   */
  public long outOfCacheBytes() {
    long wanted = lastLevelCacheBytes == 0 ? 1L << 30 : 4 * lastLevelCacheBytes;
    return availableBytes == 0 ? wanted : Math.min(wanted, availableBytes / 8);
  }
}
