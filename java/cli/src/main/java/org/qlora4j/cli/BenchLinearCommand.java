// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.qlora4j.cli.bench.LinearBench;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.WeightFormat;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code qlora4j bench linear}. */
@Command(
    name = "linear",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Measures the linear with its LoRA branch, forward and backward to its input, beside libtorch's dense product.",
      "With 64 rows or fewer, weights come out of memory: many copies take turns."
    })
final class BenchLinearCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Option(
      names = "--shapes",
      split = ",",
      paramLabel = "NxK",
      defaultValue = "4096x4096,11008x4096,5120x20480",
      description = "Weights, outputs x inputs, separated by commas (default: ${DEFAULT-VALUE}).")
  private List<String> shapes = new ArrayList<>();

  @Option(
      names = "--m",
      split = ",",
      paramLabel = "M",
      defaultValue = "1,8,64,512,2048",
      description = "Numbers of rows, separated by commas (default: ${DEFAULT-VALUE}).")
  private List<Long> rows = new ArrayList<>();

  @Option(
      names = "--rank",
      defaultValue = "64",
      description = "Rank of the LoRA branch; 0 for none (default: ${DEFAULT-VALUE}).")
  private int rank;

  @Option(
      names = "--format",
      defaultValue = "nf4",
      description =
          "How the weight is stored: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
  private WeightFormat format;

  @Mixin private OperatorBenchOptions options = new OperatorBenchOptions();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  BenchLinearCommand() {}

  @Override
  public Integer call() {
    List<LinearBench.Shape> weights = shapes.stream().map(BenchLinearCommand::shape).toList();
    rows.forEach(m -> BenchOptions.requirePositive("--m", m));
    if (rank < 0) {
      throw new InputException("--rank: expected 0 or more, found " + rank);
    }
    LinearBench.Options asked = new LinearBench.Options(weights, rows, rank, format);
    return options.run(spec.commandLine(), setting -> new LinearBench(setting, asked)::run);
  }

  private static LinearBench.Shape shape(String text) {
    String[] sides = text.strip().toLowerCase(Locale.ROOT).split("x", -1);
    try {
      if (sides.length == 2) {
        LinearBench.Shape shape =
            new LinearBench.Shape(Integer.parseInt(sides[0]), Integer.parseInt(sides[1]));
        if (shape.n() > 0 && shape.k() > 0) {
          return shape;
        }
      }
    } catch (NumberFormatException e) {
      // said below
    }
    throw new InputException(
        "--shapes: expected outputs x inputs such as 4096x11008, found " + Text.quote(text));
  }
}
