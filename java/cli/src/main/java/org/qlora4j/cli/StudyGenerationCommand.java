// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.util.concurrent.Callable;
import org.qlora4j.study.generation.GenerationStudy;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;

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
  @Mixin private StudyRun study = new StudyRun();

  @Override
  public Integer call() {
    return study.run(GenerationStudy::run);
  }
}
