// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.LinkedHashSet;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.Callable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.CheckpointQuantizer;
import org.qlora4j.quant.QuantizationConfig;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j quantize MODEL_DIR OUTPUT_DIR}. */
@Command(
    name = "quantize",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Writes a model with its linear weights in 4 bits, in bitsandbytes' format.",
      "transformers loads the result, and so does train with method: qlora.",
      "A run that was interrupted goes on when it is started again with the same arguments."
    })
final class QuantizeCommand implements Callable<Integer> {

  /** Table of 4-bit codes. */
  enum Type {
    NF4,
    FP4
  }

  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      paramLabel = "MODEL_DIR",
      description = "Hugging Face model directory in 16 or 32 bits.")
  private Path model;

  @Parameters(
      index = "1",
      paramLabel = "OUTPUT_DIR",
      description = "Where the model goes; a model that is there is replaced.")
  private Path output;

  @Option(
      names = "--type",
      defaultValue = "nf4",
      description = "Table of codes: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
  private Type type;

  @Option(
      names = "--blocksize",
      defaultValue = "64",
      description = "Elements that share a scale (default: ${DEFAULT-VALUE}).")
  private int blockSize;

  @Option(
      names = "--no-double-quant",
      description = "Keep the blocks' scales in 32 bits instead of quantizing them too.")
  private boolean noDoubleQuant;

  @Mixin private ResumableShardSizeOption shardSize = new ResumableShardSizeOption();

  @Mixin private ThreadOption threads = new ThreadOption();

  @Mixin private JsonOption json = new JsonOption();

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  QuantizeCommand() {}

  @Override
  public Integer call() {
    QuantizationConfig quantization;
    try {
      quantization =
          new QuantizationConfig(
              type == Type.NF4 ? WeightFormat.NF4 : WeightFormat.FP4, blockSize, !noDoubleQuant);
    } catch (IllegalArgumentException e) {
      throw new InputException("--blocksize: " + e.getMessage(), e);
    }
    int cpuThreads = threads.count();
    long shardBytes = shardSize.bytes();
    checkOutput();
    WeightNames names = WeightNames.of(ModelConfig.read(model));
    CheckpointQuantizer.Result result;
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(model);
        KernelPack kernels = pack.open(cpuThreads);
        ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      names.check(checkpoint);
      Set<String> linears = new LinkedHashSet<>();
      names.linears().forEach(module -> linears.add(module.weight()));
      result =
          new CheckpointQuantizer(kernels, quantization)
              .quantize(checkpoint, linears, model, output, shardBytes, progress);
    }
    PrintWriter out = spec.commandLine().getOut();
    out.printf(
        Locale.ROOT,
        "%d weights in %s, blocks of %d%s%n",
        result.quantizedWeights(),
        type.name(),
        blockSize,
        noDoubleQuant ? "" : ", double quantization");
    out.printf(
        Locale.ROOT,
        "tensors %s before, %s after; peak memory %s%n",
        Text.bytes(result.bytesBefore()),
        Text.bytes(result.bytesAfter()),
        Text.bytes(MemoryUse.now().peakBytes()));
    out.println("result " + output);
    ObjectNode figures = Json.newObject();
    figures.put("type", type.name().toLowerCase(Locale.ROOT));
    figures.put("blocksize", blockSize);
    figures.put("double_quant", !noDoubleQuant);
    figures.put("quantized_weights", result.quantizedWeights());
    figures.put("bytes_before", result.bytesBefore());
    figures.put("bytes_after", result.bytesAfter());
    figures.put("files", result.files());
    figures.put("resumed_files", result.resumedFiles());
    figures.put("peak_bytes", MemoryUse.now().peakBytes());
    figures.put("output", output.toString());
    json.write(figures);
    return Main.DONE;
  }

  /** What is in OUTPUT_DIR will be deleted, so it must be an earlier result or nothing. */
  private void checkOutput() {
    if (model.toAbsolutePath().normalize().startsWith(output.toAbsolutePath().normalize())) {
      throw new InputException(
          "OUTPUT_DIR: expected another directory than MODEL_DIR or one above it, found " + output);
    }
    Report.checkReplaceable(output);
  }
}
