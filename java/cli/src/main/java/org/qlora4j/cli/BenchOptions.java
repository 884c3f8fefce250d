// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.KernelPack;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** The options of every benchmark. */
final class BenchOptions {
  @Option(
      names = "--csv",
      paramLabel = "FILE",
      description = "Writes the rows to this file as comma-separated values.")
  private @Nullable Path csv;

  @Option(
      names = "--threads",
      defaultValue = "0",
      paramLabel = "N",
      description = "CPU threads, of the pack and of libtorch; 0 for all (default).")
  private int threads;

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  BenchOptions() {}

  /** Opens the pack; libtorch has as many threads then, where the pack computes on the CPU. */
  KernelPack open() {
    return pack.open(ThreadOption.check(threads));
  }

  /** Opens the pack, of the CPU alone. */
  KernelPack openCpu() {
    KernelPack opened = open();
    if (opened.deviceKind() != DeviceKind.CPU) {
      String name = opened.name();
      opened.close();
      throw new InputException(
          "--pack: expected a pack on the CPU, found "
              + name
              + "; tests/gpu/check measures kernels on a GPU");
    }
    return opened;
  }

  /** Writes `--csv FILE`, whole or not at all; does nothing without one. */
  void writeCsv(String heading, List<String> lines) {
    if (csv != null) {
      String text = heading + "\n" + String.join("", lines.stream().map(l -> l + "\n").toList());
      AtomicOutput.write(csv, text.getBytes(StandardCharsets.UTF_8));
    }
  }

  /** A positive number from an option. */
  static void requirePositive(String option, long value) {
    if (value < 1) {
      throw new InputException(option + ": expected at least 1, found " + value);
    }
  }
}
