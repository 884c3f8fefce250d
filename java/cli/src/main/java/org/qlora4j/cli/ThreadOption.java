// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import org.qlora4j.common.InputException;
import picocli.CommandLine.Option;

/** The number of CPU threads of commands that compute. */
final class ThreadOption {
  @Option(
      names = "--threads",
      defaultValue = "0",
      description = "CPU threads; 0 for all (default).")
  private int threads;

  /** For picocli. */
  ThreadOption() {}

  /** The number, checked. */
  int count() {
    return check(threads);
  }

  /** The value of a {@code --threads} that a command describes itself. */
  static int check(int threads) {
    if (threads < 0) {
      throw new InputException("--threads: expected 0 or more, found " + threads);
    }
    return threads;
  }
}
