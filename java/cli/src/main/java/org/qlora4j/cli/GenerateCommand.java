// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Text;
import org.qlora4j.data.ChatTemplate;
import org.qlora4j.data.Example;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.generate.SamplingConfig;
import org.qlora4j.generate.TextGenerator;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.TrainedBase;
import org.qlora4j.tensor.TensorArena;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j generate MODEL_DIR}. */
@Command(
    name = "generate",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Continues a prompt with a model, with or without an adapter.",
      "The text goes to standard output as it is made."
    })
final class GenerateCommand implements Callable<Integer> {

  /** How the base's linear weights are held. */
  enum Quantize {
    NONE,
    NF4,
    FP4,
    INT8,
    FP8
  }

  /** Type of activations. */
  enum Compute {
    BFLOAT16,
    FLOAT32
  }

  /** Where the prompt comes from. */
  static final class Source {
    @Option(names = "--prompt", paramLabel = "TEXT", description = "The text to continue.")
    @Nullable String prompt;

    @Option(
        names = "--prompt-file",
        paramLabel = "FILE",
        description = "A UTF-8 file with the text to continue.")
    @Nullable Path promptFile;

    @Option(
        names = "--message",
        paramLabel = "TEXT",
        description = "A user's message, put into the model's chat template.")
    @Nullable String message;

    @Option(
        names = "--instruction",
        paramLabel = "TEXT",
        description = "An instruction, put into the Alpaca template.")
    @Nullable String instruction;
  }

  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      arity = "0..1",
      paramLabel = "MODEL_DIR",
      description = "Hugging Face model directory (default: the base that the adapter names).")
  private @Nullable Path model;

  @Option(names = "--adapter", paramLabel = "DIR", description = "LoRA adapter in PEFT's format.")
  private @Nullable Path adapter;

  @ArgGroup(multiplicity = "1", exclusive = true)
  private Source source;

  @Option(
      names = "--max-new-tokens",
      defaultValue = "200",
      description = "Longest text in tokens (default: ${DEFAULT-VALUE}).")
  private int maxNewTokens;

  @Option(
      names = "--temperature",
      defaultValue = "0",
      description = "0 for the likeliest token each time (default); larger is more varied.")
  private double temperature;

  @Option(
      names = "--top-k",
      defaultValue = "0",
      description = "Draw from the k likeliest tokens; 0 for all (default).")
  private int topK;

  @Option(
      names = "--top-p",
      defaultValue = "1",
      description =
          "Draw from the likeliest tokens of together this probability (default: ${DEFAULT-VALUE}).")
  private double topP;

  @Option(
      names = "--repetition-penalty",
      defaultValue = "1",
      description =
          "Above 1, tokens that were used already are less likely (default: ${DEFAULT-VALUE}).")
  private double repetitionPenalty;

  @Option(
      names = "--seed",
      defaultValue = "42",
      description = "Of the draws (default: ${DEFAULT-VALUE}).")
  private long seed;

  @Option(
      names = "--quantize",
      description =
          "Hold the base in 4 or 8 bits: ${COMPLETION-CANDIDATES} (default: as it was held when the adapter was trained, where its directory says it; else none).")
  private @Nullable Quantize quantize;

  @Option(
      names = "--blocksize",
      paramLabel = "N",
      description = "With --quantize nf4 or fp4: elements that share a scale (default: 64).")
  private @Nullable Integer blockSize;

  @Option(
      names = "--no-double-quant",
      description = "With --quantize nf4 or fp4: keep the blocks' scales in 32 bits.")
  private boolean noDoubleQuant;

  @Option(
      names = "--llm-int8-threshold",
      paramLabel = "X",
      description =
          "With int8 and --compute bfloat16: columns of activations of at least this are multiplied in 16 bits; 0 for none (default: as the adapter was trained, else 0).")
  private @Nullable Float outlierThreshold;

  @Option(
      names = "--compute",
      defaultValue = "bfloat16",
      description = "Type of activations: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
  private Compute compute;

  @Option(
      names = "--chat-template",
      paramLabel = "NAME|FILE",
      defaultValue = "tokenizer",
      description =
          "For --message: tokenizer (the model's own), plain, or a Jinja file (default: ${DEFAULT-VALUE}).")
  private String chatTemplate;

  @Mixin private ThreadOption threads = new ThreadOption();

  @Option(
      names = "--json",
      paramLabel = "FILE",
      description = "Writes the text and figures to this file.")
  private @Nullable Path json;

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  GenerateCommand() {}

  @Override
  public Integer call() {
    SamplingConfig sampling;
    try {
      sampling = new SamplingConfig(maxNewTokens, temperature, topK, topP, repetitionPenalty, seed);
    } catch (IllegalArgumentException e) {
      throw new InputException(String.valueOf(e.getMessage()), e);
    }
    int cpuThreads = threads.count();
    Path modelDir = modelDirectory();
    ModelConfig config = ModelConfig.read(modelDir);
    PrintWriter err = spec.commandLine().getErr();
    DType type = compute == Compute.FLOAT32 ? DType.F32 : DType.BF16;
    LoraCompute loraCompute = compute == Compute.FLOAT32 ? LoraCompute.F32 : LoraCompute.FAST;
    try (Tokenizer tokenizer = Tokenizer.load(modelDir);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(modelDir);
        KernelPack kernels = pack.open(cpuThreads);
        ConsoleProgress progress = new ConsoleProgress(err)) {
      err.println(kernels.description());
      int[] prompt = prompt(tokenizer);
      StoredLinears linears = new StoredLinears(checkpoint, WeightNames.of(config));
      ModelLoader.Options options = new ModelLoader.Options(type, quantization(linears), false);
      try (DecoderModel decoder =
          ModelLoader.load(kernels, config, checkpoint, options, progress)) {
        progress.finish();
        LoraAdapter lora = adapter == null ? null : LoraAdapter.load(kernels, adapter, decoder);
        try (TensorArena arena = new TensorArena(kernels)) {
          Pass pass = Pass.inference(kernels, arena, type, loraCompute);
          int room = Math.min(maxNewTokens, config.maxPositions() - prompt.length);
          generate(
              new TextGenerator(decoder, pass, tokenizer.stopIds()),
              tokenizer,
              prompt,
              sampling,
              room);
        } finally {
          if (lora != null) {
            lora.close();
          }
        }
      }
    }
    return Main.DONE;
  }

  /** Generates and reports; `room` is the number of tokens after which the text is cut off. */
  private void generate(
      TextGenerator generator,
      Tokenizer tokenizer,
      int[] prompt,
      SamplingConfig sampling,
      int room) {
    PrintWriter out = spec.commandLine().getOut();
    Tokenizer.Incremental text = tokenizer.incremental(prompt);
    StringBuilder whole = new StringBuilder();
    long start = System.nanoTime();
    int[] made =
        generator.generate(
            prompt,
            sampling,
            token -> {
              String piece = text.add(token);
              whole.append(piece);
              out.print(piece);
              out.flush();
            });
    double seconds = (System.nanoTime() - start) / 1e9;
    String rest = text.finish();
    whole.append(rest);
    out.println(rest);
    MemoryUse memory = MemoryUse.now();
    spec.commandLine()
        .getErr()
        .printf(
            Locale.ROOT,
            "%d tokens in %s, %.1f tokens/s, peak memory %s%n",
            made.length,
            Text.duration(seconds),
            made.length / seconds,
            Text.bytes(memory.peakBytes()));
    ObjectNode figures = Json.newObject();
    figures.put("text", whole.toString());
    figures.put("prompt_tokens", prompt.length);
    figures.put("new_tokens", made.length);
    figures.put("stopped", made.length < room);
    figures.put("seconds", seconds);
    Report.put(figures, "tokens_per_s", made.length / seconds);
    figures.put("peak_bytes", memory.peakBytes());
    Report.json(json, figures);
  }

  private Path modelDirectory() {
    if (model != null) {
      return model;
    }
    if (adapter == null) {
      throw new InputException("expected MODEL_DIR or --adapter, found neither");
    }
    try (PeftAdapterFile file = PeftAdapterFile.open(adapter)) {
      String base = file.config().baseModel();
      if (base == null || !Files.isDirectory(Path.of(base))) {
        throw new InputException(
            adapter
                + ": its base_model_name_or_path is "
                + (base == null ? "not set" : Text.quote(base) + ", which is no directory here")
                + "; name the model's directory before --adapter");
      }
      return Path.of(base);
    }
  }

  /** How the linear weights are held: as the options say, or as the adapter was trained. */
  private @Nullable QuantizationConfig quantization(StoredLinears linears) {
    QuantizationConfig chosen =
        quantize == null ? trainedQuantization(linears) : chosenQuantization(quantize);
    checkQuantization(chosen);
    if (chosen != null && chosen.format() == WeightFormat.INT8) {
      // Only activations in 16 bits have columns apart.
      chosen =
          QuantizationConfig.int8(
              compute != Compute.BFLOAT16
                  ? 0
                  : outlierThreshold == null ? chosen.outlierThreshold() : outlierThreshold);
    }
    int dense = linears.dense();
    if (quantize == null && chosen != null && dense > 0) {
      boolean all = dense == linears.count();
      spec.commandLine()
          .getErr()
          .println(
              "base: "
                  + (all ? "" : dense + " of " + linears.count() + " linear weights ")
                  + "quantized to "
                  + chosen.text()
                  + ", as the adapter was trained; --quantize none leaves "
                  + (all ? "it as it is" : "them as they are"));
    }
    return chosen;
  }

  /** Refuses options that have nothing to act on. */
  private void checkQuantization(@Nullable QuantizationConfig chosen) {
    String found =
        quantize == null
            ? "no --quantize"
            : "--quantize " + quantize.name().toLowerCase(Locale.ROOT);
    boolean fourBit = quantize != null && chosen != null && chosen.format().is4Bit();
    if (!fourBit && (blockSize != null || noDoubleQuant)) {
      throw new InputException(
          (blockSize != null ? "--blocksize" : "--no-double-quant")
              + ": expected --quantize nf4 or fp4 with it, found "
              + found);
    }
    if (outlierThreshold == null) {
      return;
    }
    if (!(outlierThreshold >= 0) || !Float.isFinite(outlierThreshold)) {
      throw new InputException(
          "--llm-int8-threshold: expected a number of at least 0, found " + outlierThreshold);
    }
    boolean int8 = chosen != null && chosen.format() == WeightFormat.INT8;
    if (!int8 || (outlierThreshold > 0 && compute != Compute.BFLOAT16)) {
      throw new InputException(
          "--llm-int8-threshold: needs an INT8 base (--quantize int8) and --compute bfloat16, found "
              + (int8
                  ? "--compute float32"
                  : quantize == null && chosen != null
                      ? "a base that the adapter was trained on in " + chosen.text()
                      : found));
    }
  }

  private @Nullable QuantizationConfig chosenQuantization(Quantize format) {
    try {
      return switch (format) {
        case NONE -> null;
        case INT8 -> {
          QuantizationConfig trained = outlierThreshold == null ? trainedQuantization() : null;
          yield QuantizationConfig.int8(trained == null ? 0 : trained.outlierThreshold());
        }
        case FP8 -> QuantizationConfig.fp8();
        case NF4, FP4 ->
            new QuantizationConfig(
                format == Quantize.NF4 ? WeightFormat.NF4 : WeightFormat.FP4,
                blockSize == null ? 64 : blockSize,
                !noDoubleQuant);
      };
    } catch (IllegalArgumentException e) {
      throw new InputException("--blocksize: " + e.getMessage(), e);
    }
  }

  /** What the adapter's directory says of its base; null where it says nothing. */
  private @Nullable QuantizationConfig trainedQuantization() {
    TrainedBase trained = adapter == null ? null : TrainedBase.read(adapter);
    return trained == null ? null : trained.quantization();
  }

  /** The same where it can be had: a base that is stored otherwise stays as it is. */
  private @Nullable QuantizationConfig trainedQuantization(StoredLinears linears) {
    QuantizationConfig config = trainedQuantization();
    return config != null && linears.fit(config) ? config : null;
  }

  private int[] prompt(Tokenizer tokenizer) {
    if (source.message != null) {
      ChatTemplate template = ChatTemplate.of(chatTemplate, tokenizer);
      String text = template.render(List.of(new Example.Message("user", source.message)), true);
      return template.placesBos() ? tokenizer.encodeInner(text) : tokenizer.encode(text);
    }
    if (source.instruction != null) {
      return tokenizer.encode(new ExampleReader("alpaca").prompt(source.instruction, ""));
    }
    if (source.promptFile != null) {
      return tokenizer.encode(ExampleReader.readText(source.promptFile));
    }
    return tokenizer.encode(String.valueOf(source.prompt));
  }
}
