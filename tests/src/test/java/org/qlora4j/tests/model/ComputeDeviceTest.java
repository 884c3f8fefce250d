// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import org.bytedeco.pytorch.global.torch;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.tensor.ComputeDevice;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.Packs;

/**
 * The device a user asks for against the pack and libtorch that are there. The pack {@code
 * pretended-cuda} says that it is on a GPU, so that the choice can be tested without one; the tests
 * that need libtorch to be the one for the CPU are skipped where it is not.
 */
class ComputeDeviceTest {
  private static final String FOLDER = "/org/qlora4j/packs/linux-x86_64/";
  private static final List<String> PROPERTIES = List.of("qlora4j.pack", "qlora4j.packDirectory");

  private final String[] before = new String[PROPERTIES.size()];

  @BeforeEach
  void clearProperties() {
    for (int i = 0; i < before.length; i++) {
      before[i] = System.getProperty(PROPERTIES.get(i), "");
      System.clearProperty(PROPERTIES.get(i));
    }
  }

  @AfterEach
  void restoreProperties() {
    for (int i = 0; i < before.length; i++) {
      if (before[i].isEmpty()) {
        System.clearProperty(PROPERTIES.get(i));
      } else {
        System.setProperty(PROPERTIES.get(i), before[i]);
      }
    }
  }

  @Test
  void cpuIsTheBestPackOfTheCpu() {
    try (KernelPack pack = ComputeDevice.CPU.open(PackOptions.defaults())) {
      assertEquals(DeviceKind.CPU, pack.deviceKind());
      assertFalse(pack.selection().contains("cuda"), pack.selection());
    }
  }

  /** A GPU that could compute, beside a libtorch that could not. */
  @Test
  void automaticChoiceSaysWhatLibtorchLacks(@TempDir Path folder) throws IOException {
    requireLibtorchForTheCpu();
    copy("pretended-cuda", folder.resolve("libqlora4j-pack-cuda.so"));
    copy("reference", folder.resolve("libqlora4j-pack-reference.so"));
    System.setProperty("qlora4j.packDirectory", folder.toString());
    try (KernelPack pack = ComputeDevice.AUTO.open(PackOptions.defaults())) {
      assertEquals("reference", pack.name());
      assertTrue(pack.selection().startsWith("cuda: libtorch "), pack.selection());
      assertTrue(pack.description().contains(pack.selection()), pack.description());
    }
    assertRefused(ComputeDevice.CUDA, null, "device: cuda", "cuda: libtorch ", "docs/cuda.md");
  }

  @Test
  void explicitPackOnAGpuNeedsLibtorchThere() {
    requireLibtorchForTheCpu();
    assertRefused(ComputeDevice.AUTO, "pretended-cuda", "pretended-cuda is for a GPU", "libtorch");
    assertRefused(ComputeDevice.CUDA, "pretended-cuda", "pretended-cuda is for a GPU", "libtorch");
  }

  @Test
  void deviceAndPackMustNotContradict() {
    assertRefused(
        ComputeDevice.CPU,
        "pretended-cuda",
        "device: cpu",
        "pretended-cuda computes on the device CUDA, but CPU was asked for");
    assertRefused(
        ComputeDevice.CUDA,
        Packs.REFERENCE,
        "device: cuda",
        "reference computes on the device CPU, but CUDA was asked for");
    // The property is a choice like any other.
    System.setProperty("qlora4j.pack", Packs.REFERENCE);
    assertRefused(ComputeDevice.CUDA, null, "reference computes on the device CPU");
    try (KernelPack pack = ComputeDevice.AUTO.open(PackOptions.defaults())) {
      assertEquals(Packs.REFERENCE, pack.name());
    }
  }

  /**
   * libtorch's memory for a pack on a GPU is asked of the GPU, and is not the host's by mistake.
   */
  @Test
  void memoryIsOnThePacksDevice() {
    requireLibtorchForTheCpu();
    try (KernelPack pack =
            KernelPack.open(PackOptions.defaults().withPack("pretended-cuda").withDevice(0));
        TensorArena arena = new TensorArena(pack)) {
      InputException error = assertThrows(InputException.class, () -> arena.allocate(DType.F32, 4));
      assertTrue(
          String.valueOf(error.getCause()).contains("CUDA"), String.valueOf(error.getCause()));
    }
  }

  private static void requireLibtorchForTheCpu() {
    Assumptions.assumeFalse(torch.cuda_is_available(), "libtorch has a GPU here");
  }

  private static void assertRefused(ComputeDevice device, @Nullable String pack, String... parts) {
    InputException error =
        assertThrows(
            InputException.class, () -> device.open(PackOptions.defaults().withPack(pack)).close());
    String message = String.valueOf(error.getMessage());
    assertEquals(1, message.lines().count(), message);
    for (String part : parts) {
      assertTrue(message.contains(part), () -> "expected \"" + part + "\" in: " + message);
    }
  }

  private static void copy(String pack, Path target) throws IOException {
    String resource = FOLDER + "libqlora4j-pack-" + pack + ".so";
    try (InputStream in =
        Objects.requireNonNull(ComputeDeviceTest.class.getResourceAsStream(resource))) {
      Files.copy(in, target);
    }
  }
}
