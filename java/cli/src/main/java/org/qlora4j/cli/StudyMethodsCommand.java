// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.util.concurrent.Callable;
import org.qlora4j.study.methods.MethodStudy;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;

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
  @Mixin private StudyRun study = new StudyRun();

  @Override
  public Integer call() {
    return study.run(MethodStudy::run);
  }
}
