// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.qlora4j.common.Progress;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** What every study's command takes and does. */
final class StudyRun {
  @Spec(Spec.Target.MIXEE)
  private CommandSpec spec;

  @Parameters(index = "0", paramLabel = "STUDY.yaml", description = "The study's configuration.")
  private Path config;

  @Option(
      names = "--set",
      paramLabel = "KEY=VALUE",
      description =
          "Changes a key of the study; may be given several times. A level below is written training.model=DIR.")
  private List<String> overrides = new ArrayList<>();

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  StudyRun() {}

  /** A study: gives its report's file. */
  interface Study {
    Path run(Path config, List<String> settings, Progress progress);
  }

  /** Runs a study and prints where its report is; gives the exit code. */
  int run(Study study) {
    List<String> settings = new ArrayList<>(overrides);
    if (pack.device() != null) {
      settings.add("training.device=" + pack.device().key());
    }
    pack.choosePack();
    Path report;
    try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      report = study.run(config, settings, progress);
    }
    spec.commandLine().getOut().println("report " + report);
    return Main.DONE;
  }
}
