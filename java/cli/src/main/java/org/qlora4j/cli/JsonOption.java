// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** Where a command writes what it shows, for programs. */
final class JsonOption {
  @Option(names = "--json", paramLabel = "FILE", description = "Writes the figures to this file.")
  private @Nullable Path file;

  /** For picocli. */
  JsonOption() {}

  /** Writes them, whole or not at all; does nothing where no file was named. */
  void write(ObjectNode figures) {
    Report.json(file, figures);
  }
}
