// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.build;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/**
 * What the shipped libraries ask of a machine and show to a process: nothing of the build machine's
 * folders, no C++ runtime of their own version, no symbol but the ABI's, and no instruction that
 * runs before the CPU was asked for it.
 */
class NativeLibrariesTest {
  private static final Path PACKS =
      Path.of("native", "target", "packs", "org", "qlora4j", "packs", "linux-x86_64");
  private static final Path CUDA_PACKS =
      Path.of("cuda", "target", "packs", "org", "qlora4j", "packs", "linux-x86_64");
  private static final Path JNI =
      Path.of("java", "kernels", "target", "native", "org", "qlora4j", "kernels", "abi");

  /**
   * What a pack may need: the C library's parts, and on a GPU machine what the driver brings is
   * opened at run time.
   */
  private static final Set<String> SYSTEM_LIBRARIES =
      Set.of(
          "libc.so.6",
          "libm.so.6",
          "libpthread.so.0",
          "libdl.so.2",
          "librt.so.1",
          "ld-linux-x86-64.so.2");

  @BeforeAll
  static void needReadelf() {
    Assumptions.assumeTrue(
        ProjectTree.hasProgram("readelf"), "readelf is not installed (package binutils)");
  }

  private static List<Path> libraries(Path folder) {
    return ProjectTree.files(ProjectTree.root().resolve(folder)).stream()
        .filter(file -> file.toString().endsWith(".so"))
        .toList();
  }

  private static List<String> readelf(String what, Path file)
      throws IOException, InterruptedException {
    return ProjectTree.run(List.of("readelf", "-W", what, file.toString())).lines().toList();
  }

  private static List<Path> packs() {
    List<Path> packs = new ArrayList<>(libraries(PACKS));
    packs.addAll(libraries(CUDA_PACKS));
    assertFalse(packs.isEmpty(), "no pack was built");
    return packs;
  }

  private static List<Path> shipped() {
    List<Path> all = new ArrayList<>(packs());
    List<Path> jni = libraries(JNI);
    assertEquals(2, jni.size(), () -> "the JNI library and the loader, found " + jni);
    all.addAll(jni);
    return all;
  }

  @Test
  void noFolderOfTheBuildMachineIsSearched() throws Exception {
    for (Path library : shipped()) {
      for (String line : readelf("-d", library)) {
        if (line.contains("RUNPATH") || line.contains("RPATH")) {
          String path = line.substring(line.indexOf('[') + 1, line.lastIndexOf(']'));
          for (String entry : path.split(":", -1)) {
            assertTrue(entry.startsWith("$ORIGIN"), library + " searches " + entry);
          }
        }
      }
    }
  }

  @Test
  void packsNeedTheSystemLibrariesOnly() throws Exception {
    for (Path library : packs()) {
      Set<String> needed = new TreeSet<>();
      for (String line : readelf("-d", library)) {
        if (line.contains("(NEEDED)")) {
          needed.add(line.substring(line.indexOf('[') + 1, line.lastIndexOf(']')));
        }
      }
      needed.removeAll(SYSTEM_LIBRARIES);
      assertEquals(Set.of(), needed, library.toString());
    }
  }

  @Test
  void packsExportTheirOneSymbol() throws Exception {
    for (Path library : packs()) {
      assertEquals(List.of("q4j_pack_open"), exports(library, name -> true), library.toString());
    }
  }

  @Test
  void loaderExportsTheAbiOnly() throws Exception {
    Path loader = ProjectTree.root().resolve("native/target/dist/lib/libqlora4j.so");
    assertEquals(List.of(), exports(loader, name -> !name.startsWith("q4j_")));
    assertTrue(exports(loader, name -> name.equals("q4j_context_create")).size() == 1);
  }

  private static List<String> exports(Path library, Predicate<String> wanted)
      throws IOException, InterruptedException {
    List<String> names = new ArrayList<>();
    for (String line : readelf("--dyn-syms", library)) {
      String[] fields = line.trim().split("\\s+", -1);
      // Num: Value Size Type Bind Vis Ndx Name
      if (fields.length == 8
          && !fields[6].equals("UND")
          && !fields[6].equals("Ndx")
          && wanted.test(fields[7])) {
        names.add(fields[7]);
      }
    }
    return names;
  }

  /**
   * Constructors of global objects run when the library is opened, before the entry point asks the
   * CPU.
   */
  @Test
  void noCodeForAnInstructionSetRunsAtLoading() throws Exception {
    List<Path> objects =
        ProjectTree.files(ProjectTree.root().resolve("native/target/cmake/CMakeFiles")).stream()
            .filter(file -> file.toString().contains("-isa.dir"))
            .filter(file -> file.toString().endsWith(".o"))
            .toList();
    assertFalse(objects.isEmpty(), "no object of a CPU pack was found");
    for (Path object : objects) {
      assertFalse(
          readelf("-S", object).stream()
              .anyMatch(line -> line.contains(".init_array") || line.contains(".ctors")),
          object + " has a constructor that runs when the pack is opened");
    }
  }
}
