// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.tensor.ComputeDevice;

/** What the machine is, for a report's reader. */
public final class Machine {
  private Machine() {}

  /**
   * "Intel(R) Xeon(R) ..., 2 CPUs; kernel pack cpu-avx512 ...", with the pack of {@code device}.
   */
  public static String description(ComputeDevice device) {
    String pack;
    try (KernelPack opened = device.open(PackOptions.defaults())) {
      pack = opened.description();
    }
    return processor() + ", " + Runtime.getRuntime().availableProcessors() + " CPUs; " + pack;
  }

  /** The name of the kernel pack that computes on {@code device}. */
  public static String packName(ComputeDevice device) {
    try (KernelPack opened = device.open(PackOptions.defaults())) {
      return opened.name();
    }
  }

  private static String processor() {
    try {
      for (String line :
          Files.readAllLines(Path.of("/proc/cpuinfo"), StandardCharsets.ISO_8859_1)) {
        if (line.startsWith("model name")) {
          return line.substring(line.indexOf(':') + 1).strip();
        }
      }
    } catch (IOException e) {
      // not Linux, or not allowed
    }
    return System.getProperty("os.arch");
  }
}
