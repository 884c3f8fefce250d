// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.qlora4j.study.methods.MethodStudy;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j study methods STUDY.yaml}. */
@Command(
    name = "methods",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Compares ways to tune a model: memory, time and held-out loss of each.",
      "Every method runs in a process of its own; docs/study-methods.md has the keys."
    })
final class StudyMethodsCommand implements Callable<Integer> {
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
  StudyMethodsCommand() {}

  @Override
  public Integer call() {
    List<String> settings = new ArrayList<>(overrides);
    if (pack.device() != null) {
      settings.add("training.device=" + pack.device().key());
    }
    pack.choosePack();
    Path report;
    try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      report = MethodStudy.run(config, settings, progress);
    }
    PrintWriter out = spec.commandLine().getOut();
    out.println("report " + report);
    return Main.DONE;
  }
}
