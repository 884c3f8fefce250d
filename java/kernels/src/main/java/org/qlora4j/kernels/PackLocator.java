// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.bytedeco.javacpp.Loader;
import org.jspecify.annotations.Nullable;

/**
 * Finds the shared library of a pack: in the directory of the system property {@code
 * qlora4j.packDirectory} when it is set, otherwise among the resources that the platform jars ship,
 * extracted to JavaCPP's cache.
 */
final class PackLocator {
  /** Folder of the resources; the platform's name and the file follow. */
  static final String RESOURCES = "/org/qlora4j/packs/";

  /**
   * A pack that builds ship.
   *
   * @param kind where it computes, which is known without opening it
   */
  record Shipped(String name, DeviceKind kind) {}

  /** The packs the automatic choice tries, best first. */
  static final List<Shipped> AUTOMATIC =
      List.of(
          new Shipped("cuda", DeviceKind.CUDA),
          new Shipped("cpu-amx", DeviceKind.CPU),
          new Shipped("cpu-avx512bf16", DeviceKind.CPU),
          new Shipped("cpu-avx512", DeviceKind.CPU),
          new Shipped("cpu-avx2", DeviceKind.CPU),
          new Shipped("reference", DeviceKind.CPU));

  private PackLocator() {}

  /** Whether a choice names a file and not a shipped pack. */
  static boolean isPath(String choice) {
    return choice.indexOf('/') >= 0 || choice.indexOf('\\') >= 0 || choice.endsWith(".so");
  }

  static String fileName(String name) {
    return "libqlora4j-pack-" + name + ".so";
  }

  /** The library of the shipped pack {@code name}, or null when it was not shipped. */
  static @Nullable Path find(String name) {
    String directory = System.getProperty("qlora4j.packDirectory", "");
    if (!directory.isEmpty()) {
      Path file = Path.of(directory, fileName(name));
      return Files.isRegularFile(file) ? file.toAbsolutePath() : null;
    }
    URL resource =
        PackLocator.class.getResource(RESOURCES + Loader.getPlatform() + "/" + fileName(name));
    if (resource == null) {
      return null;
    }
    try {
      // A resource that is a file already (an unpacked build) is opened where it lies.
      return "file".equals(resource.getProtocol())
          ? Path.of(resource.toURI())
          : Loader.cacheResource(resource).toPath();
    } catch (IOException e) {
      throw new UncheckedIOException(
          "cannot extract " + resource + " to the cache of native libraries", e);
    } catch (URISyntaxException e) {
      throw new IllegalStateException(resource + " is not a usable address", e);
    }
  }

  /** Where {@link #find} looks, for messages. */
  static String where() {
    String directory = System.getProperty("qlora4j.packDirectory", "");
    return directory.isEmpty()
        ? "the class path under " + RESOURCES + Loader.getPlatform()
        : "the directory " + directory + " (qlora4j.packDirectory)";
  }
}
