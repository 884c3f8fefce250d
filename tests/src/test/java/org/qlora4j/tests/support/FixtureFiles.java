// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.net.URISyntaxException;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Single files and folders of the fixtures, by path: from the test resources where they were copied
 * there, else below the roots that {@link Fixtures} knows. A test whose fixture is absent is
 * skipped and says which.
 */
public final class FixtureFiles {
  private FixtureFiles() {}

  /** A file or folder of the expected values that the real libraries made. */
  public static Path reference(String path) {
    return find("reference", Fixtures.root(), path);
  }

  /** A file or folder of the models, tokenizers and texts. */
  public static Path data(String path) {
    return find("data", Fixtures.data(), path);
  }

  /** A directory that holds only the config.json of a tiny model, one of the project's own. */
  public static Path shape(String name) {
    return project("tests/src/test/resources/shapes").resolve(name);
  }

  /** A file of the project itself. */
  public static Path project(String path) {
    return Path.of(System.getProperty("qlora4j.root", "..")).resolve(path);
  }

  private static Path find(String kind, Path root, String path) {
    URL resource = FixtureFiles.class.getResource("/" + kind + "/" + path);
    if (resource != null && resource.getProtocol().equals("file")) {
      try {
        return Path.of(resource.toURI());
      } catch (URISyntaxException e) {
        throw new IllegalStateException(resource + " is not a usable address", e);
      }
    }
    Path file = root.resolve(path);
    assumeTrue(
        Files.exists(file), () -> "no fixture " + file + "; set -Dqlora4j." + kind + "=FOLDER");
    return file;
  }
}
