// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import picocli.CommandLine.Option;

/** The options of commands that compute. */
final class PackChoice {
  @Option(
      names = "--pack",
      paramLabel = "NAME|FILE",
      description =
          "Kernel pack: reference, cpu-avx2, cpu-avx512, cpu-avx512bf16, cpu-amx, cuda, or a library's path (default: the best that runs here).")
  private @Nullable String pack;

  /** For picocli. */
  PackChoice() {}

  /** Opens the chosen pack; what cannot be opened is the user's to change. */
  KernelPack open(int threads) {
    choose();
    try {
      return KernelPack.open(PackOptions.defaults().withThreads(threads));
    } catch (IllegalArgumentException | UnsupportedOperationException e) {
      throw new InputException("cannot open a kernel pack: " + e.getMessage(), e);
    }
  }

  /** Makes a choice hold for code that opens a pack itself, and checks that it can be opened. */
  void require() {
    choose();
    if (System.getProperty("qlora4j.pack") != null) {
      open(0).close();
    }
  }

  private void choose() {
    if (pack != null) {
      System.setProperty("qlora4j.pack", pack);
    }
  }
}
