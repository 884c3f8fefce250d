// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import org.qlora4j.cli.bench.Row;
import org.qlora4j.kernels.KernelPack;

/** The rows of a benchmark on their way to the screen and the file. */
final class BenchReport {
  private final List<Row> rows = new ArrayList<>();
  private final List<String> notes = new ArrayList<>();

  void add(Row row) {
    rows.add(row);
  }

  void note(String line) {
    notes.add(line);
  }

  /** Prints and writes everything; gives the exit code. */
  int finish(KernelPack pack, BenchOptions options, PrintWriter out) {
    if (rows.isEmpty()) {
      throw new UnsupportedOperationException(
          notes.isEmpty() ? "nothing to measure" : String.join("; ", notes));
    }
    out.println(pack.description() + ", " + pack.buildInfo());
    List<List<String>> cells = new ArrayList<>();
    cells.add(Row.HEADING);
    rows.forEach(row -> cells.add(row.cells()));
    Report.table(cells).forEach(out::println);
    notes.forEach(out::println);
    options.writeCsv(Row.CSV_HEADING, rows.stream().map(Row::csv).toList());
    int code = Main.DONE;
    for (Row row : rows) {
      if (row.error() != null) {
        out.println(
            "WRONG: "
                + row.operator()
                + " "
                + row.direction()
                + " "
                + row.shape()
                + ": "
                + row.error());
        code = Main.DEFECT;
      }
    }
    return code;
  }
}
