// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.Callable;
import org.qlora4j.cli.bench.StepBench;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.CheckpointSave;
import org.qlora4j.model.ModelConfig;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code qlora4j bench step}. */
@Command(
    name = "step",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Measures whole training steps of a Llama of some shape with random weights: NF4 with double"
          + " quantization, LoRA on all linear layers, activation checkpointing, bf16.",
      "A step's time is the median of the measured ones, its processor time their mean: all"
          + " threads' together, in ticks of the system (10 ms on Linux), so a short step needs"
          + " many."
    })
final class BenchStepCommand implements Callable<Integer> {
  private static final String CSV_HEADING =
      "pack,threads,hidden,ffn,layers,heads,kv_heads,vocab,rank,sequence,batch,steps,checkpointing,tokens_per_s,seconds,cpu_seconds,peak_bytes,activation_bytes";

  private static final int WARM_UP = 2;

  @Spec private CommandSpec spec;

  @Option(
      names = "--hidden",
      defaultValue = "2048",
      description = "Hidden size (default: ${DEFAULT-VALUE}).")
  private int hidden;

  @Option(
      names = "--ffn",
      defaultValue = "5632",
      description = "Width of the MLP (default: ${DEFAULT-VALUE}).")
  private int ffn;

  @Option(
      names = "--layers",
      defaultValue = "4",
      description = "Decoder blocks (default: ${DEFAULT-VALUE}).")
  private int layers;

  @Option(
      names = "--heads",
      defaultValue = "32",
      description = "Query heads (default: ${DEFAULT-VALUE}).")
  private int heads;

  @Option(
      names = "--kv-heads",
      defaultValue = "4",
      description = "Key and value heads (default: ${DEFAULT-VALUE}).")
  private int kvHeads;

  @Option(
      names = "--vocab",
      defaultValue = "32000",
      description = "Size of the vocabulary (default: ${DEFAULT-VALUE}).")
  private int vocab;

  @Option(
      names = "--rank",
      defaultValue = "64",
      description = "Rank of the adapters (default: ${DEFAULT-VALUE}).")
  private int rank;

  @Option(
      names = "--sequence",
      defaultValue = "512",
      description = "Tokens of a sequence (default: ${DEFAULT-VALUE}).")
  private int sequence;

  @Option(
      names = "--batch",
      defaultValue = "1",
      description = "Sequences of a step (default: ${DEFAULT-VALUE}).")
  private int batch;

  @Option(
      names = "--steps",
      defaultValue = "5",
      description = "Measured steps, after " + WARM_UP + " to warm up (default: ${DEFAULT-VALUE}).")
  private int steps;

  @Option(
      names = "--checkpointing",
      defaultValue = "on",
      paramLabel = "WHAT",
      description =
          "Activation checkpointing: on, off, or what is kept besides the blocks' inputs, as"
              + " checkpoint_save says it, separated by commas (default: ${DEFAULT-VALUE}).")
  private String checkpointing;

  @Option(
      names = "--profile",
      description = "Shows where a step's time goes; costs well under a hundredth of it.")
  private boolean profile;

  @Mixin private BenchOptions options = new BenchOptions();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  BenchStepCommand() {}

  @Override
  public Integer call() {
    BenchOptions.requirePositive("--hidden", hidden);
    BenchOptions.requirePositive("--ffn", ffn);
    BenchOptions.requirePositive("--layers", layers);
    BenchOptions.requirePositive("--heads", heads);
    BenchOptions.requirePositive("--kv-heads", kvHeads);
    BenchOptions.requirePositive("--vocab", vocab);
    BenchOptions.requirePositive("--rank", rank);
    BenchOptions.requirePositive("--batch", batch);
    BenchOptions.requirePositive("--steps", steps);
    if (sequence < 2) {
      throw new InputException("--sequence: expected at least 2, found " + sequence);
    }
    if ((long) sequence * batch > Integer.MAX_VALUE) {
      throw new InputException(
          "--batch: a step of " + (long) sequence * batch + " tokens is too large");
    }
    ModelConfig config = StepBench.llama(vocab, hidden, ffn, layers, heads, kvHeads, sequence);
    Set<CheckpointSave> save =
        checkpointing.equals("on") || checkpointing.equals("off")
            ? Set.of()
            : CheckpointSave.parse("--checkpointing", List.of(checkpointing.split(",", -1)));
    StepBench.Result result;
    try (KernelPack pack = options.open();
        ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      result =
          StepBench.run(
              pack,
              new StepBench.Options(
                  config,
                  rank,
                  sequence,
                  batch,
                  WARM_UP,
                  steps,
                  !checkpointing.equals("off"),
                  save),
              profile,
              progress);
      print(pack, result, spec.commandLine().getOut());
      options.writeCsv(
          CSV_HEADING,
          List.of(
              String.format(
                  Locale.ROOT,
                  "%s,%d,%d,%d,%d,%d,%d,%d,%d,%d,%d,%d,%s,%.2f,%.6f,%.6f,%d,%d",
                  pack.name(),
                  pack.threads(),
                  hidden,
                  ffn,
                  layers,
                  heads,
                  kvHeads,
                  vocab,
                  rank,
                  sequence,
                  batch,
                  steps,
                  checkpointing.replace(',', '+'),
                  result.tokensPerSecond(),
                  result.secondsPerStep(),
                  result.cpuSecondsPerStep(),
                  pack.deviceKind() == DeviceKind.CPU
                      ? result.peakBytes()
                      : pack.peakAllocatedBytes(),
                  result.parts().activations())));
    }
    if (!(result.lastLoss() < result.firstLoss())) {
      spec.commandLine()
          .getOut()
          .println("WRONG: the loss did not fall on tokens that every step sees again");
      return Main.DEFECT;
    }
    return Main.DONE;
  }

  private static void print(KernelPack pack, StepBench.Result result, PrintWriter out) {
    out.println(pack.description() + ", " + pack.buildInfo());
    StepBench.Parts parts = result.parts();
    line(out, "step", String.format(Locale.ROOT, "%.3f s (median)", result.secondsPerStep()));
    line(
        out,
        "processor",
        String.format(Locale.ROOT, "%.3f s (mean), all threads", result.cpuSecondsPerStep()));
    line(out, "tokens", String.format(Locale.ROOT, "%,.1f per second", result.tokensPerSecond()));
    if (pack.deviceKind() == DeviceKind.CPU) {
      line(out, "peak memory", Text.bytes(result.peakBytes()) + ", the JVM and loading included");
    } else {
      line(out, "GPU memory", Text.bytes(pack.peakAllocatedBytes()) + " at most, of the pack");
    }
    line(
        out,
        "counted",
        String.format(
            Locale.ROOT,
            "weights %s, adapters and gradients %s, optimizer %s, activations %s",
            Text.bytes(parts.weights()),
            Text.bytes(parts.adapters()),
            Text.bytes(parts.optimizerStates()),
            Text.bytes(parts.activations())));
    line(
        out,
        "loss",
        String.format(
            Locale.ROOT,
            "%.4f at the first step, %.4f at the last",
            result.firstLoss(),
            result.lastLoss()));
    if (result.profile().isEmpty()) {
      return;
    }
    double whole = result.profile().values().stream().mapToDouble(StepBench.Part::seconds).sum();
    List<List<String>> rows = new ArrayList<>();
    rows.add(List.of("part of a step", "calls", "ms", "share"));
    result
        .profile()
        .forEach(
            (name, part) ->
                rows.add(
                    List.of(
                        name,
                        part.calls() == 0 ? "" : String.format(Locale.ROOT, "%.0f", part.calls()),
                        String.format(Locale.ROOT, "%.2f", part.seconds() * 1e3),
                        String.format(Locale.ROOT, "%.1f %%", 100 * part.seconds() / whole))));
    rows.add(
        List.of("together (mean)", "", String.format(Locale.ROOT, "%.2f", whole * 1e3), "100 %"));
    out.println();
    Report.table(rows).forEach(out::println);
  }

  private static void line(PrintWriter out, String name, String value) {
    out.printf(Locale.ROOT, "%-12s %s%n", name, value);
  }
}
