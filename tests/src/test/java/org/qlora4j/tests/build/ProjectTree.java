// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.build;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** The project's folder, its files, and the tools of the machine. */
final class ProjectTree {
  private ProjectTree() {}

  static Path root() {
    String root = System.getProperty("qlora4j.root");
    if (root == null) {
      throw new IllegalStateException(
          "the system property qlora4j.root is not set: it names the project's folder");
    }
    return Path.of(root);
  }

  /** Regular files below a folder, build outputs left out, sorted. */
  static List<Path> files(Path folder) {
    if (!Files.isDirectory(folder)) {
      return List.of();
    }
    try (Stream<Path> walk = Files.walk(folder)) {
      return walk.filter(Files::isRegularFile)
          .filter(file -> !folder.relativize(file).startsWith("target"))
          .sorted()
          .toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * Identifies the sources of the native libraries: computed as {@code cmake/BuildInfo.cmake} does,
   * from the same files.
   *
   * @return 16 hexadecimal digits
   */
  static String nativeSources() throws IOException {
    Path root = root();
    Map<String, Path> files = new TreeMap<>();
    for (String folder : List.of("native/include", "native/src", "cuda/src", "cmake")) {
      for (Path file : files(root.resolve(folder))) {
        files.put(root.relativize(file).toString().replace('\\', '/'), file);
      }
    }
    for (String file : List.of("native/CMakeLists.txt", "cuda/CMakeLists.txt")) {
      files.put(file, root.resolve(file));
    }
    StringBuilder lines = new StringBuilder();
    for (Map.Entry<String, Path> entry : files.entrySet()) {
      lines
          .append(sha256(Files.readAllBytes(entry.getValue())))
          .append("  ")
          .append(entry.getKey())
          .append('\n');
    }
    return sha256(lines.toString().getBytes(StandardCharsets.UTF_8)).substring(0, 16);
  }

  private static String sha256(byte[] content) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Whether a program is on the path. */
  static boolean hasProgram(String name) {
    for (String folder : System.getenv().getOrDefault("PATH", "").split(":", -1)) {
      if (!folder.isEmpty() && Files.isExecutable(Path.of(folder, name))) {
        return true;
      }
    }
    return false;
  }

  /** Standard output and error of a command that must succeed. */
  static String run(List<String> command) throws IOException, InterruptedException {
    Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
    process.getOutputStream().close();
    String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    if (!process.waitFor(60, TimeUnit.SECONDS)) {
      process.destroyForcibly();
      throw new IOException("no end after 60 s: " + command);
    }
    if (process.exitValue() != 0) {
      throw new IOException("exit code " + process.exitValue() + " of " + command + "\n" + output);
    }
    return output;
  }
}
