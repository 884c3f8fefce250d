// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** {@code qlora4j bench}. */
@Command(
    name = "bench",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Measures this machine's kernels beside libtorch's in the same process.",
      "Results are compared before anything is timed; a wrong one ends with exit code 1."
    },
    subcommands = {BenchLinearCommand.class, BenchOpsCommand.class, BenchStepCommand.class})
final class BenchCommand implements Runnable {
  @Spec private CommandSpec spec;

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  BenchCommand() {}

  /** Without a benchmark's name: which there are. */
  @Override
  public void run() {
    throw new CommandLine.ParameterException(
        spec.commandLine(), "expected what to measure: linear, ops or step");
  }
}
