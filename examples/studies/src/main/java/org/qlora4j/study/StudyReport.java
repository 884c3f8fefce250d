// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.report.Report;

/** The files of a report: {@code report.html}, {@code report.json} and {@code report.md}. */
public final class StudyReport {
  private StudyReport() {}

  /** Writes all three; each appears whole or not at all. Gives the HTML file. */
  public static Path write(Report report, Path directory) {
    Path html = directory.resolve("report.html");
    AtomicOutput.write(
        directory.resolve("report.json"), report.json().getBytes(StandardCharsets.UTF_8));
    AtomicOutput.write(
        directory.resolve("report.md"), report.markdown().getBytes(StandardCharsets.UTF_8));
    AtomicOutput.write(html, report.html().getBytes(StandardCharsets.UTF_8));
    return html;
  }
}
