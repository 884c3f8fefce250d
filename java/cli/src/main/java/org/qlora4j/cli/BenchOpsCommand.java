// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.qlora4j.cli.bench.OpsBench;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code qlora4j bench ops}. */
@Command(
    name = "ops",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description =
        "Measures the operators between the products, forward and backward, beside libtorch's.")
final class BenchOpsCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Option(
      names = "--only",
      split = ",",
      paramLabel = "NAME",
      description =
          "Operators, separated by commas: rms_norm, layer_norm, rotary, swiglu, gelu, cross_entropy, adamw, adamw_8bit,"
              + " quantize_4bit, dequantize_4bit, attention (default: all).")
  private List<String> only = new ArrayList<>();

  @Option(
      names = "--rows",
      defaultValue = "2048",
      description = "Rows of the activations (default: ${DEFAULT-VALUE}).")
  private long rows;

  @Option(
      names = "--columns",
      defaultValue = "4096",
      description = "Columns of the activations (default: ${DEFAULT-VALUE}).")
  private long columns;

  @Option(
      names = "--vocab",
      defaultValue = "32000",
      description = "Columns of the logits (default: ${DEFAULT-VALUE}).")
  private long vocab;

  @Option(
      names = "--tokens",
      split = ",",
      defaultValue = "512,2048",
      description =
          "Tokens of each attention, which has 32 heads of 64 (default: ${DEFAULT-VALUE}).")
  private List<Integer> tokens = new ArrayList<>();

  @Mixin private OperatorBenchOptions options = new OperatorBenchOptions();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  BenchOpsCommand() {}

  @Override
  public Integer call() {
    for (String name : only) {
      if (!OpsBench.names().contains(name)) {
        throw new InputException(
            "--only: expected one of "
                + String.join(", ", OpsBench.names())
                + ", found "
                + Text.quote(name));
      }
    }
    BenchOptions.requirePositive("--rows", rows);
    BenchOptions.requirePositive("--columns", columns);
    BenchOptions.requirePositive("--vocab", vocab);
    tokens.forEach(t -> BenchOptions.requirePositive("--tokens", t));
    OpsBench.Options asked =
        new OpsBench.Options(
            only.isEmpty() ? OpsBench.names() : only, rows, columns, vocab, tokens);
    return options.run(spec.commandLine(), setting -> new OpsBench(setting, asked)::run);
  }
}
