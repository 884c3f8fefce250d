// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import org.bytedeco.javacpp.Pointer;
import org.jspecify.annotations.Nullable;

/**
 * What to open.
 *
 * @param pack name of a shipped pack, for example {@code cpu-avx512}, or path of a pack's shared
 *     library; null: the system property {@code qlora4j.pack}, and without that the best pack this
 *     machine can run
 * @param basePack name or path of a second pack that serves the operators the first leaves out;
 *     null: the system property {@code qlora4j.basePack}, and without that none
 * @param kind where the pack must compute: packs of another kind are not tried, and an explicit
 *     choice of one is refused; null: anywhere
 * @param device number of the device; 0 on the CPU
 * @param threads CPU threads; 0: as many as the process may use
 * @param stream CUDA stream that a pack on a GPU orders its work on, for sharing memory with
 *     another library without waiting; null: the default stream. Packs on the CPU have no use for
 *     it. It must outlive the pack.
 * @param dryRun whether the pack only counts, see {@link KernelPack#isDryRun}
 */
public record PackOptions(
    @Nullable String pack,
    @Nullable String basePack,
    @Nullable DeviceKind kind,
    int device,
    int threads,
    @Nullable Pointer stream,
    boolean dryRun) {

  /** Checks the numbers. */
  public PackOptions {
    if (device < 0 || threads < 0) {
      throw new IllegalArgumentException(
          "device and threads cannot be negative, found device " + device + ", threads " + threads);
    }
  }

  /** Everything automatic. */
  public static PackOptions defaults() {
    return new PackOptions(null, null, null, 0, 0, null, false);
  }

  /** The same with an explicit pack. */
  public PackOptions withPack(@Nullable String name) {
    return new PackOptions(name, basePack, kind, device, threads, stream, dryRun);
  }

  /** The same with a base pack. */
  public PackOptions withBasePack(@Nullable String name) {
    return new PackOptions(pack, name, kind, device, threads, stream, dryRun);
  }

  /** The same for packs that compute there alone. */
  public PackOptions withKind(@Nullable DeviceKind where) {
    return new PackOptions(pack, basePack, where, device, threads, stream, dryRun);
  }

  /** The same on another device. */
  public PackOptions withDevice(int number) {
    return new PackOptions(pack, basePack, kind, number, threads, stream, dryRun);
  }

  /** The same with a number of CPU threads. */
  public PackOptions withThreads(int count) {
    return new PackOptions(pack, basePack, kind, device, count, stream, dryRun);
  }

  /** The same on a CUDA stream. */
  public PackOptions withStream(@Nullable Pointer handle) {
    return new PackOptions(pack, basePack, kind, device, threads, handle, dryRun);
  }

  /** The same for a pack that counts memory instead of computing. */
  public PackOptions forDryRun() {
    return new PackOptions(pack, basePack, kind, device, threads, stream, true);
  }
}
