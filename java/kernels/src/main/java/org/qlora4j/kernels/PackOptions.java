// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.jspecify.annotations.Nullable;

/**
 * What to open.
 *
 * @param pack name of a shipped pack, for example {@code cpu-avx512}, or path of a pack's shared
 *     library; null: the system property {@code qlora4j.pack}, and without that the best pack this
 *     machine can run
 * @param basePack name or path of a second pack that serves the operators the first leaves out;
 *     null: the system property {@code qlora4j.basePack}, and without that none
 * @param device number of the device; 0 on the CPU
 * @param threads CPU threads; 0: as many as the process may use
 */
public record PackOptions(
    @Nullable String pack, @Nullable String basePack, int device, int threads) {

  /** Checks the numbers. */
  public PackOptions {
    if (device < 0 || threads < 0) {
      throw new IllegalArgumentException(
          "device and threads cannot be negative, found device " + device + ", threads " + threads);
    }
  }

  /** Everything automatic. */
  public static PackOptions defaults() {
    return new PackOptions(null, null, 0, 0);
  }

  /** The same with an explicit pack. */
  public PackOptions withPack(@Nullable String name) {
    return new PackOptions(name, basePack, device, threads);
  }

  /** The same with a base pack. */
  public PackOptions withBasePack(@Nullable String name) {
    return new PackOptions(pack, name, device, threads);
  }

  /** The same on another device. */
  public PackOptions withDevice(int number) {
    return new PackOptions(pack, basePack, number, threads);
  }

  /** The same with a number of CPU threads. */
  public PackOptions withThreads(int count) {
    return new PackOptions(pack, basePack, device, count);
  }
}
