// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.refine.RefineConfig;
import org.qlora4j.refine.RefineConfigReader;
import org.qlora4j.refine.RefineReport;
import org.qlora4j.refine.Refinement;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j data refine CONFIG.yaml}. */
@Command(
    name = "refine",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Turns collected posts into training examples: cleaned, filtered, without duplicates, positive.",
      "Every row that is dropped is counted by its reason; a report is written beside the examples.",
      "Start with: qlora4j data refine examples/refine.yaml"
    })
final class DataRefineCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      arity = "0..1",
      paramLabel = "CONFIG.yaml",
      description = "What to read, how to clean, what to keep; --help-keys lists the keys.")
  private @Nullable Path config;

  @Option(
      names = "--set",
      paramLabel = "KEY=VALUE",
      description = "Changes a key of the configuration; may be given several times.")
  private List<String> overrides = new ArrayList<>();

  @Option(
      names = "--help-keys",
      description = "Lists every key of a configuration with its default, and exits.")
  private boolean helpKeys;

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  DataRefineCommand() {}

  @Override
  public Integer call() {
    PrintWriter out = spec.commandLine().getOut();
    if (helpKeys) {
      for (RefineConfigReader.Key key : RefineConfigReader.KEYS) {
        out.println(key.name() + (key.defaultText().isEmpty() ? "" : ": " + key.defaultText()));
        out.println("    " + key.meaning());
      }
      return Main.DONE;
    }
    if (config == null) {
      throw new InputException(
          "expected a configuration, found none; see " + spec.qualifiedName() + " --help");
    }
    RefineConfig refineConfig = RefineConfigReader.read(config, overrides);
    RefineReport report;
    try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      report = Refinement.run(refineConfig, progress);
    }
    Refinement.summary(refineConfig, report).forEach(out::println);
    return Main.DONE;
  }
}
