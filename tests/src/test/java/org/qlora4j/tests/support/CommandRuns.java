// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.qlora4j.cli.Main;

/** Runs commands, in this process or in one of their own. */
public final class CommandRuns {
  private CommandRuns() {}

  /** What a command printed, and its exit code. */
  public record Ran(int code, String out, String err) {}

  /** Runs a command in this process. */
  public static Ran run(Object... args) {
    StringWriter out = new StringWriter();
    StringWriter err = new StringWriter();
    int code =
        Main.run(
            new PrintWriter(out, true),
            new PrintWriter(err, true),
            Arrays.stream(args).map(String::valueOf).toArray(String[]::new));
    return new Ran(code, out.toString(), err.toString());
  }

  /**
   * Runs a command in a process of its own, for what depends on the memory that a process has.
   *
   * @param folder where its output is kept
   */
  public static Ran runAlone(Path folder, Object... args) throws IOException, InterruptedException {
    Path out = Files.createTempFile(folder, "out", ".txt");
    Path err = Files.createTempFile(folder, "err", ".txt");
    List<String> command = command(args);
    Process process =
        new ProcessBuilder(command)
            .redirectOutput(out.toFile())
            .redirectError(err.toFile())
            .start();
    try {
      assertTrue(process.waitFor(3, TimeUnit.MINUTES), "the process did not end");
    } finally {
      process.destroyForcibly();
    }
    return new Ran(process.exitValue(), Files.readString(out), Files.readString(err));
  }

  /** The command line of a command in a Java process of its own; parts may be added. */
  public static List<String> command(Object... args) {
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-Xmx512m",
                "-XX:-UsePerfData",
                "-Dorg.bytedeco.javacpp.maxPhysicalBytes=0",
                "-Dorg.bytedeco.javacpp.maxBytes=0",
                "-cp",
                System.getProperty("java.class.path"),
                Main.class.getName()));
    Arrays.stream(args).map(String::valueOf).forEach(command::add);
    return command;
  }

  /** Exit code 0. */
  public static Ran assertDone(Ran ran) {
    assertEquals(0, ran.code(), ran.err());
    return ran;
  }

  /** Exit code 2, nothing on standard output, one line, the last, that holds every part. */
  public static void assertFixable(Ran ran, String... parts) {
    assertEquals(2, ran.code(), ran.err());
    assertEquals("", ran.out());
    List<String> lines = ran.err().lines().toList();
    String last = lines.get(lines.size() - 1);
    assertTrue(last.startsWith("qlora4j: "), ran.err());
    assertFalse(ran.err().contains("\tat "), "no stack trace: " + ran.err());
    assertEquals(1, lines.stream().filter(line -> line.startsWith("qlora4j: ")).count(), ran.err());
    for (String part : parts) {
      assertTrue(last.contains(part), () -> "expected \"" + part + "\" in: " + last);
    }
  }
}
