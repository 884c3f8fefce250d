// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.qlora4j.common.Failures;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;

/**
 * Runs a class with a main method in a Java process of its own, of the same Java, class path and
 * options as this one: its memory is its own, and so is its end. The child ends when this process
 * does, however that ends.
 */
public final class ChildJvm {
  /** A child that could not do what the user wants, and said why on standard error. */
  private static final int FIXABLE = 2;

  /** The kernel's signal 9, as a shell reports it. */
  private static final int KILLED = 128 + 9;

  private ChildJvm() {}

  /**
   * Runs a class to its end.
   *
   * @param main has a main method that calls {@link #child} first
   * @param arguments of the main method
   * @param log file of everything it printed that is not progress
   * @param progress shows the child's
   * @param name of the work, for messages
   * @throws InputException where the child says that the user can mend it, or was killed
   * @throws IllegalStateException where it failed otherwise
   */
  public static void run(
      Class<?> main, List<String> arguments, Path log, Progress progress, String name) {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    for (String option : ManagementFactory.getRuntimeMXBean().getInputArguments()) {
      // A debugger or an agent belongs to the one process that was started with it.
      if (!option.startsWith("-agentlib") && !option.startsWith("-javaagent")) {
        command.add(option);
      }
    }
    // Set at run time, by an option of the command line.
    String pack = System.getProperty("qlora4j.pack");
    if (pack != null) {
      command.add("-Dqlora4j.pack=" + pack);
    }
    command.addAll(List.of("-cp", System.getProperty("java.class.path"), main.getName()));
    command.addAll(arguments);
    Process process;
    try {
      process = new ProcessBuilder(command).redirectErrorStream(true).start();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot start " + command.get(0), e);
    }
    Thread end = new Thread(process::destroyForcibly);
    Runtime.getRuntime().addShutdownHook(end);
    try {
      String last = follow(process, log, progress);
      int code = process.waitFor();
      if (code == FIXABLE) {
        throw new InputException(name + ": " + last);
      }
      if (code == KILLED) {
        throw new InputException(
            name
                + ": its process was killed, which is what Linux does where memory runs out; its log is "
                + log);
      }
      if (code != 0) {
        throw new IllegalStateException(
            name + ": its process ended with code " + code + "; its log is " + log);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(name + " was interrupted", e);
    } catch (IOException e) {
      throw new UncheckedIOException("cannot follow " + name, e);
    } finally {
      process.destroyForcibly();
      try {
        Runtime.getRuntime().removeShutdownHook(end);
      } catch (IllegalStateException e) {
        // This process ends, and the hook runs.
      }
    }
  }

  /** Shows progress, keeps everything else, and gives the last line of that. */
  private static String follow(Process process, Path log, Progress progress) throws IOException {
    String last = "";
    try (BufferedReader lines =
            new BufferedReader(
                new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        Writer out = Files.newBufferedWriter(log, StandardCharsets.UTF_8)) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (!ProgressLines.show(line, progress)) {
          last = line;
          out.write(line);
          out.write('\n');
          out.flush();
        }
      }
    }
    progress.finish();
    return last;
  }

  /** What a child's main method does. */
  public interface Work {
    /** Does it; progress goes to the parent. */
    void run(Progress progress) throws IOException;
  }

  /**
   * To be called by the child's main method: does the work, and ends the process with the code that
   * {@link #run} understands.
   */
  public static void child(Work work) {
    // The parent never writes: the end of the stream is the parent's end.
    Thread watch =
        new Thread(
            () -> {
              try {
                while (System.in.read() >= 0) {
                  // nothing is sent
                }
              } catch (IOException e) {
                // as good as its end
              }
              Runtime.getRuntime().halt(1);
            });
    watch.setDaemon(true);
    watch.start();
    java.io.PrintStream out =
        new java.io.PrintStream(
            new java.io.FileOutputStream(java.io.FileDescriptor.out), true, StandardCharsets.UTF_8);
    int code = 0;
    try {
      work.run(new ProgressLines(out));
    } catch (Exception | LinkageError | OutOfMemoryError e) {
      String fixable = Failures.fixable(e);
      if (fixable == null) {
        e.printStackTrace(out);
      } else {
        out.println(fixable);
      }
      code = fixable == null ? 1 : FIXABLE;
    }
    out.flush();
    System.exit(code);
  }
}
