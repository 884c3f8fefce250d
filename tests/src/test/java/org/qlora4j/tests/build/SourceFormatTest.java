// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.build;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;

/**
 * Native sources carry the licence line and are formatted; Spotless checks the same of Java
 * sources.
 */
class SourceFormatTest {
  private static final String LICENCE =
      "Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0";

  private static List<Path> sources() {
    List<Path> sources = new ArrayList<>();
    for (String folder : List.of("native/include", "native/src", "native/tests", "cuda/src")) {
      ProjectTree.files(ProjectTree.root().resolve(folder)).stream()
          .filter(file -> file.toString().matches(".*\\.(h|cpp|cu|cuh)"))
          .forEach(sources::add);
    }
    assertFalse(sources.isEmpty(), "no native source was found");
    return sources;
  }

  @Test
  void nativeSourcesCarryTheLicence() throws IOException {
    List<Path> without = new ArrayList<>();
    for (Path source : sources()) {
      String text = Files.readString(source);
      if (!text.startsWith("// " + LICENCE + "\n")) {
        without.add(source);
      }
    }
    assertEquals(List.of(), without, "first line must be: // " + LICENCE);
  }

  @Test
  void nativeSourcesAreFormatted() throws Exception {
    Assumptions.assumeTrue(ProjectTree.hasProgram("clang-format"), "clang-format is not installed");
    // Releases differ in details, so one of them decides.
    String version = ProjectTree.run(List.of("clang-format", "--version")).strip();
    Assumptions.assumeTrue(
        version.contains("version 14."),
        "the sources are formatted by clang-format 14, not " + version);
    List<String> command =
        new ArrayList<>(List.of("clang-format", "--dry-run", "-Werror", "--style=file"));
    sources().forEach(source -> command.add(source.toString()));
    ProjectTree.run(command);
  }
}
