// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.util.function.Consumer;
import java.util.function.Function;
import org.qlora4j.cli.bench.Limits;
import org.qlora4j.cli.bench.Machine;
import org.qlora4j.cli.bench.Row;
import org.qlora4j.cli.bench.Setting;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.train.TrainConfig.Compute;
import picocli.CommandLine;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** The options of the benchmarks of operators, and how these run. */
final class OperatorBenchOptions {
  /** A benchmark; see {@link org.qlora4j.cli.bench.LinearBench#run}. */
  interface Bench {
    void run(Consumer<Row> rows, Consumer<String> notes, Progress progress);
  }

  @Option(
      names = "--compute",
      defaultValue = "bfloat16",
      description =
          "Type of the activations: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
  private Compute compute;

  @Option(
      names = "--repetitions",
      defaultValue = "7",
      paramLabel = "N",
      description = "Runs of each measurement (default: ${DEFAULT-VALUE}).")
  private int repetitions;

  @Mixin private BenchOptions options = new BenchOptions();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  OperatorBenchOptions() {}

  /** Measures, prints and writes; gives the exit code. */
  int run(CommandLine command, Function<Setting, Bench> bench) {
    BenchOptions.requirePositive("--repetitions", repetitions);
    BenchReport report = new BenchReport();
    Machine machine = Machine.now();
    try (KernelPack pack = options.openCpu();
        KernelPack reference =
            KernelPack.open(PackOptions.defaults().withPack("reference").withThreads(1));
        ConsoleProgress progress = new ConsoleProgress(command.getErr())) {
      Setting setting =
          new Setting(
              pack,
              reference,
              compute == Compute.BFLOAT16 ? DType.BF16 : DType.F32,
              repetitions,
              machine,
              new Limits(pack, machine.outOfCacheBytes()));
      bench.apply(setting).run(report::add, report::note, progress);
      return report.finish(pack, options, command.getOut());
    }
  }
}
