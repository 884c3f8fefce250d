// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

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
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.RmsNorm;
import org.qlora4j.kernels.Weight;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;

/** Which pack is opened, and what is said when none can be; and that wrong arguments are named. */
class KernelPackTest {
  private static final List<String> PROPERTIES =
      List.of("qlora4j.pack", "qlora4j.basePack", "qlora4j.packDirectory");

  private final List<String> before = new java.util.ArrayList<>();

  @BeforeEach
  void clearProperties() {
    for (String name : PROPERTIES) {
      before.add(System.getProperty(name, ""));
      System.clearProperty(name);
    }
  }

  @AfterEach
  void restoreProperties() {
    for (int i = 0; i < PROPERTIES.size(); i++) {
      if (before.get(i).isEmpty()) {
        System.clearProperty(PROPERTIES.get(i));
      } else {
        System.setProperty(PROPERTIES.get(i), before.get(i));
      }
    }
  }

  @Test
  void automaticChoiceIsTheFirstThatOpens() {
    String expected = KernelPack.shipped().stream().filter(Packs::opens).findFirst().orElseThrow();
    try (KernelPack pack = KernelPack.openAutomatic()) {
      assertEquals(expected, pack.name());
      assertTrue(pack.threads() >= 1);
    }
  }

  @Test
  void shippedPacksDoNotIncludeThoseForTests() {
    assertTrue(KernelPack.shipped().contains("reference"));
    assertFalse(KernelPack.shipped().contains("broken"));
    assertFalse(KernelPack.shipped().contains("cuda-on-host"));
  }

  @Test
  void propertyNamesThePack() {
    System.setProperty("qlora4j.pack", "reference");
    try (KernelPack pack = KernelPack.openAutomatic()) {
      assertEquals("reference", pack.name());
      assertEquals(DeviceKind.CPU, pack.deviceKind());
      assertTrue(pack.buildInfo().contains("revision="), pack.buildInfo());
      assertTrue(KernelPack.loaderBuildInfo().contains("revision="), KernelPack.loaderBuildInfo());
    }
  }

  @Test
  void kindLimitsTheChoice() {
    try (KernelPack pack = KernelPack.open(PackOptions.defaults().withKind(DeviceKind.CPU))) {
      assertEquals(DeviceKind.CPU, pack.deviceKind());
      assertFalse(pack.selection().contains("cuda"), "the GPU was not wanted: " + pack.selection());
    }
    IllegalArgumentException error =
        assertThrows(
            IllegalArgumentException.class,
            () ->
                KernelPack.open(
                    PackOptions.defaults().withPack("reference").withKind(DeviceKind.CUDA)));
    String message = String.valueOf(error.getMessage());
    assertTrue(message.contains("reference") && message.contains("CUDA"), message);
    if (!Packs.opens("cuda")) {
      UnsupportedOperationException none =
          assertThrows(
              UnsupportedOperationException.class,
              () -> KernelPack.open(PackOptions.defaults().withKind(DeviceKind.CUDA)));
      assertTrue(String.valueOf(none.getMessage()).contains("cuda: "), none.getMessage());
    }
  }

  @Test
  void automaticChoiceMeetsTheDemand() {
    try (KernelPack pack =
        KernelPack.open(
            PackOptions.defaults(),
            p -> p.name().equals("reference") ? null : "is not the reference")) {
      assertEquals("reference", pack.name());
      assertTrue(pack.selection().contains("is not the reference"), pack.selection());
      assertTrue(pack.description().contains(pack.selection()), pack.description());
    }
    // An explicit choice need not.
    try (KernelPack pack =
        KernelPack.open(PackOptions.defaults().withPack("reference"), p -> "never")) {
      assertEquals("reference", pack.name());
    }
  }

  @Test
  void optionGoesBeforeTheProperty() {
    System.setProperty("qlora4j.pack", "no-such-pack");
    try (KernelPack pack = KernelPack.open(PackOptions.defaults().withPack("reference"))) {
      assertEquals("reference", pack.name());
    }
  }

  @Test
  void explicitChoiceIsNeverReplaced() {
    System.setProperty("qlora4j.pack", "no-such-pack");
    IllegalArgumentException error =
        assertThrows(IllegalArgumentException.class, KernelPack::openAutomatic);
    String message = String.valueOf(error.getMessage());
    assertTrue(message.contains("no-such-pack") && message.contains("reference"), message);
  }

  @Test
  void pathNamesThePack(@TempDir Path folder) throws IOException {
    Path library = copyOfReference(folder.resolve("libtuned.so"));
    System.setProperty("qlora4j.pack", library.toString());
    try (KernelPack pack = KernelPack.openAutomatic()) {
      assertEquals("reference", pack.name());
    }
  }

  @Test
  void wrongPathsAreNamed(@TempDir Path folder) throws IOException {
    Path missing = folder.resolve("missing.so");
    IllegalArgumentException error =
        assertThrows(IllegalArgumentException.class, () -> open(missing.toString()));
    assertTrue(String.valueOf(error.getMessage()).contains("missing.so"), error.getMessage());
    Path text = Files.writeString(folder.resolve("text.so"), "no library");
    assertThrows(IllegalArgumentException.class, () -> open(text.toString()));
  }

  @Test
  void packDirectoryReplacesTheClassPath(@TempDir Path folder) throws IOException {
    copyOfReference(folder.resolve("libqlora4j-pack-reference.so"));
    System.setProperty("qlora4j.packDirectory", folder.toString());
    assertEquals(List.of("reference"), KernelPack.shipped());
    try (KernelPack pack = KernelPack.openAutomatic()) {
      assertEquals("reference", pack.name());
    }
    System.setProperty("qlora4j.packDirectory", folder.resolve("nothing").toString());
    UnsupportedOperationException error =
        assertThrows(UnsupportedOperationException.class, KernelPack::openAutomatic);
    assertTrue(
        String.valueOf(error.getMessage()).contains("qlora4j.packDirectory"), error.getMessage());
  }

  @Test
  void basePackServesWhatIsLeftOut() {
    System.setProperty("qlora4j.basePack", "reference");
    try (KernelPack pack = KernelPack.open(PackOptions.defaults().withPack("broken"))) {
      assertTrue(pack.supports("attention_forward"));
    }
    System.clearProperty("qlora4j.basePack");
    try (KernelPack pack = KernelPack.open(PackOptions.defaults().withPack("broken"))) {
      assertFalse(pack.supports("attention_forward"));
      assertFalse(pack.supports("no such operator"));
    }
  }

  @Test
  void optionsAreChecked() {
    assertThrows(IllegalArgumentException.class, () -> PackOptions.defaults().withThreads(-1));
    assertThrows(IllegalArgumentException.class, () -> PackOptions.defaults().withDevice(-1));
    IllegalArgumentException error =
        assertThrows(
            IllegalArgumentException.class,
            () -> KernelPack.open(PackOptions.defaults().withPack("reference").withDevice(3)));
    assertTrue(String.valueOf(error.getMessage()).contains("device 3"), error.getMessage());
  }

  /** Java names both shapes before anything native runs. */
  @Test
  void shapesThatDoNotFitAreNamed() {
    KernelPack pack = Packs.reference();
    try (DeviceMemory memory = new DeviceMemory(pack)) {
      DeviceTensor x = memory.zeros(DType.F32, 3, 8);
      DeviceTensor vector = memory.zeros(DType.F32, 8);
      assertNamed(
          () ->
              RmsNorm.forward(
                  pack, x, null, vector, 1e-5f, false, null, memory.zeros(DType.F32, 3, 7), null),
          "y",
          "[3, 8]",
          "[3, 7]");
      assertNamed(
          () ->
              RmsNorm.forward(
                  pack, x, null, memory.zeros(DType.F32, 7), 1e-5f, false, null, x, null),
          "weight",
          "8",
          "[7]");
      assertNamed(
          () ->
              Linear.forward(
                  pack,
                  x,
                  Weight.dense(memory.zeros(DType.F32, 5, 9)),
                  null,
                  null,
                  null,
                  memory.zeros(DType.F32, 3, 5),
                  null),
          "x",
          "[3, 8]",
          "[5, 9]");
      assertNamed(
          () ->
              Activation.forward(
                  pack, Activation.Kind.SILU, x, null, memory.zeros(DType.BF16, 3, 8)),
          "y",
          "F32",
          "BF16");
      assertNamed(
          () ->
              RmsNorm.forward(
                  pack, x.columns(0, 4), null, vector.columns(0, 4), 1e-5f, false, null, x, null),
          "x",
          "contiguous");
      DeviceTensor labels = memory.of(new int[] {0, 8, 1}, 3);
      assertNamed(
          () -> CrossEntropy.apply(pack, x, labels, 0, 0, 1, memory.zeros(DType.F32, 3), null),
          "label",
          "8");
    }
  }

  private static void assertNamed(Runnable call, String... parts) {
    IllegalArgumentException error = assertThrows(IllegalArgumentException.class, call::run);
    for (String part : parts) {
      assertTrue(
          String.valueOf(error.getMessage()).contains(part),
          () -> part + " is missing in: " + error.getMessage());
    }
  }

  private static void open(String choice) {
    KernelPack.open(PackOptions.defaults().withPack(choice)).close();
  }

  private static Path copyOfReference(Path target) throws IOException {
    String resource = "/org/qlora4j/packs/linux-x86_64/libqlora4j-pack-reference.so";
    try (InputStream in =
        Objects.requireNonNull(KernelPackTest.class.getResourceAsStream(resource))) {
      Files.copy(in, target);
    }
    return target;
  }
}
