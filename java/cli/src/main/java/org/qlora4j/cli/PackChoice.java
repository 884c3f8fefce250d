// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.tensor.ComputeDevice;
import picocli.CommandLine.Option;

/** The options of commands that compute. */
final class PackChoice {
  @Option(
      names = "--pack",
      paramLabel = "NAME|FILE",
      description =
          "Kernel pack: reference, cpu-avx2, cpu-avx512, cpu-avx512bf16, cpu-amx, cuda, or a library's path (default: the best that runs here).")
  private @Nullable String pack;

  @Option(
      names = "--device",
      paramLabel = "NAME",
      description =
          "Where to compute: cuda, cpu, or auto for the GPU where it can be used (default: auto).")
  private @Nullable ComputeDevice device;

  /** For picocli. */
  PackChoice() {}

  /** Opens the chosen pack; what cannot be opened is the user's to change. */
  KernelPack open(int threads) {
    choosePack();
    return (device == null ? ComputeDevice.AUTO : device)
        .open(PackOptions.defaults().withThreads(threads));
  }

  /** Makes the choice of a pack hold for code that opens one itself. */
  void choosePack() {
    if (pack != null) {
      System.setProperty("qlora4j.pack", pack);
    }
  }

  /** The device, where one was given. */
  @Nullable ComputeDevice device() {
    return device;
  }
}
