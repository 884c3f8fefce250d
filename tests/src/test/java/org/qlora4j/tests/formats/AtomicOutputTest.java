// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.AtomicOutput;

/** Output that appears whole or not at all. */
class AtomicOutputTest {
  /** No process has this number: Linux's largest is 2^22. */
  private static final String DEAD = "99999999";

  private final Path folder;

  AtomicOutputTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private List<String> names() throws IOException {
    try (Stream<Path> entries = Files.list(folder)) {
      return entries.map(entry -> String.valueOf(entry.getFileName())).sorted().toList();
    }
  }

  @Test
  void aFileReplacesItsPredecessorAtOnce() throws IOException {
    Path target = folder.resolve("a/b/file");
    AtomicOutput.write(target, new byte[] {1});
    try (AtomicOutput out = AtomicOutput.file(target)) {
      Files.write(out.path(), new byte[] {2, 3});
      assertEquals(1, Files.size(target));
      out.commit();
    }
    assertEquals(2, Files.size(target));
    assertEquals(List.of("a"), names());
  }

  @Test
  void aDirectoryIsReplacedWhole() throws IOException {
    Path target = folder.resolve("out");
    for (String name : new String[] {"first", "second"}) {
      try (AtomicOutput out = AtomicOutput.directory(target)) {
        Files.createDirectory(out.path().resolve("sub"));
        Files.writeString(out.path().resolve("sub").resolve(name), name);
        out.commit();
      }
    }
    assertFalse(Files.exists(target.resolve("sub/first")), "nothing of the old content remains");
    assertEquals("second", Files.readString(target.resolve("sub/second")));
    assertEquals(List.of("out"), names());
  }

  @Test
  void withoutCommitTheOldStays() throws IOException {
    Path target = folder.resolve("out");
    Files.createDirectory(target);
    Files.writeString(target.resolve("old"), "old");
    assertThrows(
        IllegalStateException.class,
        () -> {
          try (AtomicOutput out = AtomicOutput.directory(target)) {
            Files.writeString(out.path().resolve("new"), "half");
            throw new IllegalStateException("a failure while writing");
          }
        });
    assertEquals("old", Files.readString(target.resolve("old")));
    assertEquals(List.of("out"), names());
  }

  @Test
  void leftoversOfDeadRunsAreCleaned() throws IOException {
    Path target = folder.resolve("out");
    Files.createDirectories(folder.resolve(".out.q4j-new-" + DEAD + "-0123abcd/deep"));
    Files.createDirectory(target);
    Files.createDirectory(folder.resolve(".out.q4j-old-" + DEAD + "-0123abcd"));
    Files.createDirectory(folder.resolve(".other.q4j-new-" + DEAD + "-0123abcd"));
    AtomicOutput.recover(target);
    assertEquals(List.of(".other.q4j-new-" + DEAD + "-0123abcd", "out"), names());
  }

  @Test
  void aRunKilledBetweenTheMovesLosesNothing() throws IOException {
    Path target = folder.resolve("out");
    Path aside = Files.createDirectory(folder.resolve(".out.q4j-old-" + DEAD + "-0123abcd"));
    Files.writeString(aside.resolve("old"), "complete");
    Files.createDirectory(folder.resolve(".out.q4j-new-" + DEAD + "-0123abcd"));
    AtomicOutput.recover(target);
    assertEquals("complete", Files.readString(target.resolve("old")));
    assertEquals(List.of("out"), names());
  }

  @Test
  void outputOfALivingRunIsLeftAlone() throws IOException {
    long parent = ProcessHandle.current().parent().map(ProcessHandle::pid).orElse(1L);
    String name = ".out.q4j-new-" + parent + "-0123abcd";
    Files.createDirectory(folder.resolve(name));
    AtomicOutput.recover(folder.resolve("out"));
    assertTrue(Files.exists(folder.resolve(name)));
    // An earlier run with this process's own number, as in a container that was restarted, is dead
    // all the same.
    Files.createDirectory(
        folder.resolve(".out.q4j-new-" + ProcessHandle.current().pid() + "-0123abcd"));
    AtomicOutput.recover(folder.resolve("out"));
    assertEquals(List.of(name), names());
  }

  @Test
  void refusesWhatItCannotReplace() throws IOException {
    Path file = Files.createFile(folder.resolve("file"));
    assertRefused(() -> AtomicOutput.directory(file), "expected a directory", "found a file");
    assertRefused(() -> AtomicOutput.file(folder), "expected a file", "found a directory");
    assertRefused(() -> AtomicOutput.file(file.resolve("below")), "cannot write");
    assertRefused(() -> AtomicOutput.directory(Path.of("/")), "below an existing directory");
  }

  /**
   * A process killed while it replaces a directory again and again always leaves one whole version
   * to be found.
   */
  @Test
  void killedAtAnyInstantOneVersionIsWhole() throws IOException, InterruptedException {
    Path target = folder.resolve("out");
    int found = 0;
    for (int round = 0; round < 6; round++) {
      Process process =
          new ProcessBuilder(
                  Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                  "-cp",
                  System.getProperty("java.class.path"),
                  Replacer.class.getName(),
                  target.toString())
              .inheritIO()
              .start();
      Path started = folder.resolve("started");
      while (!Files.exists(started) && process.isAlive()) {
        Thread.sleep(5);
      }
      Thread.sleep(20 + 17L * round);
      process.destroyForcibly();
      process.waitFor();
      Files.deleteIfExists(started);
      AtomicOutput.recover(target);
      if (Files.exists(target)) {
        String one = Files.readString(target.resolve("one"));
        assertEquals(
            one, Files.readString(target.resolve("two")), "both files are of the same version");
        found++;
      }
      assertTrue(names().size() <= 1, "leftovers: " + names());
    }
    assertEquals(6, found, "the target existed after every kill");
  }

  /** Replaces a directory until it is killed. */
  static final class Replacer {
    private Replacer() {}

    public static void main(String[] args) throws IOException {
      Path target = Path.of(args[0]);
      for (int version = 0; ; version++) {
        try (AtomicOutput out = AtomicOutput.directory(target)) {
          Files.writeString(out.path().resolve("one"), "version " + version);
          Files.writeString(out.path().resolve("two"), "version " + version);
          out.commit();
        }
        if (version == 0) {
          Files.createFile(target.resolveSibling("started"));
        }
      }
    }
  }
}
