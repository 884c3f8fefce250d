// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.Assumptions;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;

/** The packs of this build, each opened once for the whole test run. */
public final class Packs {
  /** The oracle. */
  public static final String REFERENCE = "reference";

  /** Every pack a build can have, the reference left out. */
  private static final List<String> CANDIDATES =
      List.of("cpu-avx2", "cpu-avx512", "cpu-avx512bf16", "cpu-amx", "cuda-on-host", "cuda");

  private static final Map<String, Attempt> ATTEMPTS = new LinkedHashMap<>();

  private Packs() {}

  /** Result of opening a pack: the pack, or the reason why there is none. */
  private record Attempt(List<KernelPack> pack, String reason) {}

  /**
   * Names of the packs under test. {@code -Dqlora4j.tests.packs=a,b} limits them, for a machine
   * that is to check one pack.
   *
   * @param withReference whether the reference is among them
   */
  public static List<String> names(boolean withReference) {
    String chosen = System.getProperty("qlora4j.tests.packs", "");
    List<String> names = new ArrayList<>();
    if (withReference) {
      names.add(REFERENCE);
    }
    names.addAll(chosen.isEmpty() ? CANDIDATES : List.of(chosen.split(",")));
    return names;
  }

  /** The reference pack. */
  public static KernelPack reference() {
    return attempt(REFERENCE).pack().get(0);
  }

  /**
   * The pack of that name; a test that needs one this machine or build lacks is skipped with the
   * reason.
   */
  public static KernelPack open(String name) {
    Attempt attempt = attempt(name);
    Assumptions.assumeFalse(
        attempt.pack().isEmpty(), () -> "pack " + name + ": " + attempt.reason());
    return attempt.pack().get(0);
  }

  /**
   * Skips a test that needs libtorch on the pack's device, where libtorch is the one for the CPU.
   */
  public static void requireLibtorch(KernelPack pack) {
    Assumptions.assumeTrue(
        pack.deviceKind() == DeviceKind.CPU || torch.cuda_is_available(),
        () -> pack.name() + " is on a GPU and libtorch is not: profile gpu");
  }

  /** Whether {@link #open} would give a pack. */
  public static boolean opens(String name) {
    return !attempt(name).pack().isEmpty();
  }

  /**
   * Whether the pack runs kernels one simulated thread at a time, so that only small shapes are
   * worth its time.
   */
  public static boolean isSlow(KernelPack pack) {
    return pack.name().equals("cuda-on-host");
  }

  private static synchronized Attempt attempt(String name) {
    Attempt known = ATTEMPTS.get(name);
    if (known != null) {
      return known;
    }
    Attempt attempt;
    try {
      // Two threads, so that the split of work among threads is exercised on every machine.
      KernelPack pack = KernelPack.open(PackOptions.defaults().withPack(name).withThreads(2));
      attempt = new Attempt(List.of(pack), "");
    } catch (UnsupportedOperationException e) {
      attempt = new Attempt(List.of(), String.valueOf(e.getMessage()));
    } catch (IllegalArgumentException e) {
      // Not built: the CUDA packs without a CUDA compiler.
      if (name.equals(REFERENCE)) {
        throw e;
      }
      attempt = new Attempt(List.of(), String.valueOf(e.getMessage()));
    }
    if (attempt.pack().isEmpty()) {
      System.out.println("packs: " + name + " is skipped: " + attempt.reason());
    } else {
      System.out.println("packs: " + name + " opened, " + attempt.pack().get(0).buildInfo());
    }
    ATTEMPTS.put(name, attempt);
    return attempt;
  }
}
