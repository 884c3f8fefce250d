// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.qlora4j.cli.bench.Limits;
import org.qlora4j.cli.bench.Machine;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DeviceException;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Limit;
import org.qlora4j.kernels.PackOptions;

/**
 * What {@code info --machine} says: the CPU, the packs, the threads, and what they reach at best.
 */
final class MachineReport {
  private final Machine machine = Machine.now();
  private final PrintWriter out;
  private final ObjectNode figures;

  MachineReport(PrintWriter out, ObjectNode figures) {
    this.out = out;
    this.figures = figures;
  }

  /**
   * @param threads as asked for; 0: all
   */
  void write(PackChoice choice, int threads, Progress progress) {
    cpu();
    try (KernelPack pack = choice.open(threads)) {
      packs(pack);
      threads(pack, threads);
      limits(pack, progress);
    }
  }

  private void cpu() {
    List<String> has = new ArrayList<>();
    List<String> lacks = new ArrayList<>();
    ObjectNode features = figures.putObject("features");
    machine
        .features()
        .forEach(
            (name, present) -> {
              (present ? has : lacks).add(name);
              features.put(name, present);
            });
    line("CPU", machine.cpu());
    line(
        "features",
        (has.isEmpty() ? "none of interest" : String.join(", ", has))
            + (lacks.isEmpty() ? "" : "; not " + String.join(", ", lacks)));
    line(
        "cache",
        machine.lastLevelCacheBytes() == 0
            ? "last level not told by the system"
            : Text.bytes(machine.lastLevelCacheBytes()) + " last level");
    line("free memory", Text.bytes(machine.availableBytes()));
    figures.put("cpu", machine.cpu());
    figures.put("last_level_cache_bytes", machine.lastLevelCacheBytes());
    figures.put("available_bytes", machine.availableBytes());
  }

  private void packs(KernelPack chosen) {
    line("pack", chosen.name() + " (" + chosen.buildInfo() + ")");
    figures.put("pack", chosen.name());
    ObjectNode others = figures.putObject("other_packs");
    for (String name : KernelPack.shipped()) {
      if (name.equals(chosen.name())) {
        continue;
      }
      String answer;
      try (KernelPack other =
          KernelPack.open(PackOptions.defaults().withPack(name).withThreads(1))) {
        String lacks = other.lacks(KernelPack.TRAINING_STEP);
        answer = lacks == null ? "can run" : "can run, but " + lacks;
      } catch (UnsupportedOperationException | IllegalArgumentException | DeviceException e) {
        // Where in the sources it was said is for a developer who opens the pack by name.
        String reason = Text.oneLine(String.valueOf(e.getMessage()));
        answer = "cannot: " + reason.replaceAll(" \\([a-z_]+\\.[a-z]+:\\d+\\)$", "");
      }
      line("", name + ": " + answer);
      others.put(name, answer);
    }
  }

  private void threads(KernelPack pack, int asked) {
    line(
        "threads",
        String.format(
            Locale.ROOT,
            "%d (%d CPUs, affinity allows %d, cgroup quota %s, --threads %s)",
            pack.threads(),
            machine.onlineCpus(),
            machine.allowedCpus(),
            machine.quotaCpus() == 0
                ? "none"
                : String.format(Locale.ROOT, "%.2f CPUs", machine.quotaCpus()),
            asked == 0 ? "not given" : asked));
    figures.put("threads", pack.threads());
    figures.put("cpus", machine.onlineCpus());
    figures.put("affinity_cpus", machine.allowedCpus());
    Report.put(figures, "quota_cpus", machine.quotaCpus() == 0 ? Double.NaN : machine.quotaCpus());
  }

  private void limits(KernelPack pack, Progress progress) {
    long bytes = machine.outOfCacheBytes();
    if (bytes < 1 << 20) {
      throw new InputException(
          "--machine: measuring needs free memory, and "
              + Text.bytes(bytes * 8)
              + " are available");
    }
    Limits limits = new Limits(pack, bytes);
    progress.start("measuring", Limit.values().length);
    long done = 0;
    for (Limit limit : Limit.values()) {
      progress.update(done++, limit.name().toLowerCase(Locale.ROOT));
      double perSecond = limits.perSecond(limit);
      boolean read = limit == Limit.READ;
      line(
          read ? "reads" : "multiplies " + limit.name().toLowerCase(Locale.ROOT),
          Double.isNaN(perSecond)
              ? "not measured by this pack"
              : read
                  ? String.format(
                      Locale.ROOT, "%.1f GB/s (over %s)", perSecond / 1e9, Text.bytes(bytes))
                  : String.format(Locale.ROOT, "%.3f T operations/s", perSecond / 1e12));
      Report.put(
          figures,
          read ? "read_bytes_per_s" : limit.name().toLowerCase(Locale.ROOT) + "_operations_per_s",
          perSecond);
    }
    progress.finish();
  }

  private void line(String name, String value) {
    out.printf(Locale.ROOT, "%-18s %s%n", name, value);
  }
}
