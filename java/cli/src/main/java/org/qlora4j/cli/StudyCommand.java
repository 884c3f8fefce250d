// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** {@code qlora4j study}. */
@Command(
    name = "study",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Runs a published experiment from one file, and writes a report with charts.",
      "A study that was interrupted goes on where it was when it is started again."
    },
    subcommands = {StudyGenerationCommand.class, StudyMethodsCommand.class})
final class StudyCommand implements Runnable {
  @Spec private CommandSpec spec;

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  StudyCommand() {}

  /** Without a study's name: which there are. */
  @Override
  public void run() {
    throw new CommandLine.ParameterException(
        spec.commandLine(), "expected a study: " + String.join(", ", spec.subcommands().keySet()));
  }
}
