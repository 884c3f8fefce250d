// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.LinkedHashSet;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.merge.ModelMerger;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.FloatEncoding;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.quant.TrainedBase;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j merge MODEL_DIR ADAPTER_DIR OUTPUT_DIR}. */
@Command(
    name = "merge",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Writes a model with a LoRA, rsLoRA or DoRA adapter added to its weights, in 16 or 32 bits.",
      "Modules and biases that the adapter trained in full take the place of the model's.",
      "MODEL_DIR may hold its weights in 4 or 8 bits; they are dequantized.",
      "A run that was interrupted goes on when it is started again with the same arguments."
    })
final class MergeCommand implements Callable<Integer> {

  /** The weights to merge into. */
  enum Base {
    TRAINED,
    ORIGINAL,
    NF4,
    FP4,
    INT8,
    FP8
  }

  /** Element type of the result. */
  enum Type {
    BFLOAT16(DType.BF16),
    FLOAT16(DType.F16),
    FLOAT32(DType.F32);

    private final DType dtype;

    Type(DType dtype) {
      this.dtype = dtype;
    }
  }

  /** The weights to merge into, and why these. */
  private record Choice(@Nullable QuantizationConfig quantization, String line) {}

  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      paramLabel = "MODEL_DIR",
      description = "Hugging Face model directory, the adapter's base.")
  private Path model;

  @Parameters(
      index = "1",
      paramLabel = "ADAPTER_DIR",
      description = "Adapter in PEFT's format, as train writes it.")
  private Path adapter;

  @Parameters(
      index = "2",
      paramLabel = "OUTPUT_DIR",
      description = "Where the model goes; a model that is there is replaced.")
  private Path output;

  @Option(
      names = "--base",
      defaultValue = "trained",
      description = {
        "Weights to merge into: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).",
        "trained: those the adapter was trained on, as its directory says; where it does not, those of MODEL_DIR.",
        "original: those of MODEL_DIR. nf4, fp4, int8, fp8: those of MODEL_DIR quantized so and dequantized."
      })
  private Base base;

  @Option(
      names = "--blocksize",
      defaultValue = "64",
      description =
          "With --base nf4 or fp4: elements that share a scale (default: ${DEFAULT-VALUE}).")
  private int blockSize;

  @Option(
      names = "--no-double-quant",
      description = "With --base nf4 or fp4: the blocks' scales were not quantized.")
  private boolean noDoubleQuant;

  @Option(
      names = "--dtype",
      description =
          "Element type of the result: ${COMPLETION-CANDIDATES} (default: each tensor's own; before it was quantized).")
  private @Nullable Type type;

  @Mixin private ResumableShardSizeOption shardSize = new ResumableShardSizeOption();

  @Mixin private ThreadOption threads = new ThreadOption();

  @Mixin private JsonOption json = new JsonOption();

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  MergeCommand() {}

  @Override
  public Integer call() {
    int cpuThreads = threads.count();
    long shardBytes = shardSize.bytes();
    for (Path input : new Path[] {model, adapter}) {
      if (input.toAbsolutePath().normalize().startsWith(output.toAbsolutePath().normalize())) {
        throw new InputException(
            "OUTPUT_DIR: expected another directory than MODEL_DIR, ADAPTER_DIR or one above"
                + " them, found "
                + output);
      }
    }
    Report.checkReplaceable(output);
    ModelMerger.Result result;
    Choice choice;
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(model);
        KernelPack kernels = pack.open(cpuThreads);
        ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      choice = choice(checkpoint);
      progress.message(choice.line());
      Set<String> linears = new LinkedHashSet<>();
      if (choice.quantization() != null) {
        WeightNames names = WeightNames.of(ModelConfig.read(model));
        names.check(checkpoint);
        names.linears().forEach(module -> linears.add(module.weight()));
      }
      result =
          new ModelMerger(
                  kernels,
                  new ModelMerger.Options(
                      choice.quantization(), linears, type == null ? null : type.dtype, shardBytes))
              .merge(checkpoint, model, adapter, output, progress);
    }
    PrintWriter out = spec.commandLine().getOut();
    out.printf(
        Locale.ROOT,
        "%s added to %d weights, now in %s%n",
        result.dora() ? "DoRA adapter" : "LoRA adapter",
        result.mergedWeights(),
        FloatEncoding.configName(result.type()));
    if (result.replacedTensors() > 0) {
      out.printf(Locale.ROOT, "tensors replaced by trained ones: %d%n", result.replacedTensors());
    }
    if (result.savedTensors() > 0) {
      out.printf(
          Locale.ROOT,
          "tensors of embedding and head as the adapter saved them, other than the model's: %d%n",
          result.savedTensors());
    }
    if (result.headSeparated()) {
      out.println("embedding and head are two tensors now: tie_word_embeddings is false");
    }
    out.printf(
        Locale.ROOT,
        "tensors %s before, %s after; peak memory %s%n",
        Text.bytes(result.bytesBefore()),
        Text.bytes(result.bytesAfter()),
        Text.bytes(MemoryUse.now().peakBytes()));
    out.println("result " + output);
    ObjectNode figures = Json.newObject();
    figures.put("merged_weights", result.mergedWeights());
    figures.put("replaced_tensors", result.replacedTensors());
    figures.put("saved_tensors", result.savedTensors());
    figures.put("head_separated", result.headSeparated());
    figures.put("dora", result.dora());
    figures.put("base", choice.line());
    figures.put("dtype", FloatEncoding.configName(result.type()));
    figures.put("bytes_before", result.bytesBefore());
    figures.put("bytes_after", result.bytesAfter());
    figures.put("files", result.files());
    figures.put("resumed_files", result.resumedFiles());
    figures.put("peak_bytes", MemoryUse.now().peakBytes());
    figures.put("output", output.toString());
    json.write(figures);
    return Main.DONE;
  }

  private Choice choice(ModelCheckpoint checkpoint) {
    int bits = QuantizedTensors.storedBits(checkpoint);
    if (bits != 0) {
      if (base != Base.TRAINED) {
        throw new InputException(
            "--base: expected none, because "
                + model
                + " holds its weights in "
                + bits
                + " bits and only these can be merged into, found "
                + base.name().toLowerCase(Locale.ROOT));
      }
      return storedChoice(checkpoint, bits);
    }
    if (base == Base.TRAINED) {
      TrainedBase trained = TrainedBase.read(adapter);
      if (trained == null) {
        return new Choice(
            null,
            "base: the weights of "
                + model
                + "; how the adapter was trained is not known, for a quantized base see --base");
      }
      QuantizationConfig quantization = trained.quantization();
      return new Choice(
          quantization,
          "base: the weights of "
              + model
              + (quantization == null ? "" : ", " + describe(quantization))
              + ", as the adapter was trained");
    }
    if (base == Base.ORIGINAL) {
      return new Choice(null, "base: the weights of " + model);
    }
    QuantizationConfig quantization = quantization();
    return new Choice(
        quantization, "base: the weights of " + model + ", " + describe(quantization));
  }

  /** Some weights are quantized already; dense ones become so as the adapter was trained. */
  private Choice storedChoice(ModelCheckpoint checkpoint, int bits) {
    String line = "base: the " + bits + "-bit weights of " + model + ", dequantized";
    TrainedBase trained = TrainedBase.read(adapter);
    QuantizationConfig quantization = trained == null ? null : trained.quantization();
    if (quantization == null) {
      return new Choice(null, line);
    }
    StoredLinears linears = new StoredLinears(checkpoint, WeightNames.of(ModelConfig.read(model)));
    int dense = linears.dense();
    return dense == 0 || !linears.fit(quantization)
        ? new Choice(null, line)
        : new Choice(
            quantization,
            line
                + "; "
                + dense
                + " of "
                + linears.count()
                + " linear weights, which are dense, "
                + describe(quantization)
                + ", as the adapter was trained");
  }

  private QuantizationConfig quantization() {
    try {
      return switch (base) {
        case INT8 -> QuantizationConfig.int8(0);
        case FP8 -> QuantizationConfig.fp8();
        case NF4 -> new QuantizationConfig(WeightFormat.NF4, blockSize, !noDoubleQuant);
        case FP4 -> new QuantizationConfig(WeightFormat.FP4, blockSize, !noDoubleQuant);
        case TRAINED, ORIGINAL -> throw new IllegalStateException(base + " names no format");
      };
    } catch (IllegalArgumentException e) {
      throw new InputException("--blocksize: " + e.getMessage(), e);
    }
  }

  private static String describe(QuantizationConfig config) {
    return "quantized to " + config.ofWeights().text() + " and dequantized";
  }
}
