// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.qlora4j.study.generation.GenerationStudy;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j study generation STUDY.yaml}. */
@Command(
    name = "generation",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Tunes a model, and compares what it writes with what its base writes.",
      "The same unseen prompts for both; docs/study-generation.md has the keys."
    })
final class StudyGenerationCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

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
  StudyGenerationCommand() {}

  @Override
  public Integer call() {
    List<String> settings = new ArrayList<>(overrides);
    if (pack.device() != null) {
      settings.add("training.device=" + pack.device().key());
    }
    pack.choosePack();
    Path report;
    try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      report = GenerationStudy.run(config, settings, progress);
    }
    spec.commandLine().getOut().println("report " + report);
    return Main.DONE;
  }
}
