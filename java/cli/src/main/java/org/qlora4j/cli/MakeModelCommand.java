// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ShardPlan;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Text;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.RandomCheckpoint;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j make-model --config CONFIG.json OUTPUT_DIR}. */
@Command(
    name = "make-model",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Writes a model of any supported shape with random weights, as a Hugging Face directory.",
      "For measuring memory and speed of a shape whose weights are not at hand; it has learned nothing."
    })
final class MakeModelCommand implements Callable<Integer> {

  /** Stored type. */
  enum Type {
    BF16,
    F16,
    F32
  }

  @Spec private CommandSpec spec;

  @Parameters(
      index = "0",
      paramLabel = "OUTPUT_DIR",
      description = "Where the model goes; a model that is there is replaced.")
  private Path output;

  @Option(
      names = "--config",
      required = true,
      paramLabel = "CONFIG.json",
      description = "The shape: a config.json, or a model directory that has one.")
  private Path config;

  @Option(
      names = "--dtype",
      defaultValue = "bf16",
      description = "Stored type: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}).")
  private Type type;

  @Mixin private ShardSizeOption shardSize = new ShardSizeOption();

  @Option(
      names = "--seed",
      defaultValue = "0",
      paramLabel = "N",
      description = "Of the weights (default: ${DEFAULT-VALUE}).")
  private long seed;

  @Option(
      names = "--tokenizer",
      paramLabel = "DIR",
      description = "Copies this directory's tokenizer files into the model.")
  private @Nullable Path tokenizer;

  @Option(
      names = "--threads",
      defaultValue = "0",
      paramLabel = "N",
      description = "CPU threads; 0 for all (default).")
  private int threads;

  @Mixin private JsonOption json = new JsonOption();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  MakeModelCommand() {}

  @Override
  public Integer call() {
    ThreadOption.check(threads);
    long shardBytes = shardSize.bytes();
    if (tokenizer != null && !Tokenizer.exists(tokenizer)) {
      throw new InputException(
          "--tokenizer: expected a directory with tokenizer.json, found none in " + tokenizer);
    }
    Path configFile = Files.isDirectory(config) ? config.resolve("config.json") : config;
    ModelConfig shape = ModelConfig.readFile(configFile);
    Path absolute = output.toAbsolutePath().normalize();
    for (Path source : new Path[] {configFile, tokenizer}) {
      if (source != null && source.toAbsolutePath().normalize().startsWith(absolute)) {
        throw new InputException(
            "OUTPUT_DIR: expected a directory that does not hold " + source + ", found " + output);
      }
    }
    Report.checkReplaceable(output);
    int workers = threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
    StoredType stored = StoredType.valueOf(type.name());
    ShardPlan plan;
    long start = System.nanoTime();
    try (ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      plan =
          new RandomCheckpoint(shape, stored, seed)
              .write(configFile, tokenizer, output, shardBytes, workers, progress);
    }
    double seconds = (System.nanoTime() - start) / 1e9;
    PrintWriter out = spec.commandLine().getOut();
    out.printf(
        Locale.ROOT,
        "%s of %s in %d %s, %s (%s/s); peak memory %s%n",
        Text.bytes(plan.bytes()),
        type.name().toLowerCase(Locale.ROOT),
        plan.shards().size(),
        plan.shards().size() == 1 ? "file" : "files",
        Text.duration(seconds),
        Text.bytes((long) (plan.bytes() / Math.max(seconds, 1e-9))),
        Text.bytes(MemoryUse.now().peakBytes()));
    out.println("result " + output);
    ObjectNode figures = Json.newObject();
    figures.put("bytes", plan.bytes());
    figures.put("files", plan.shards().size());
    figures.put("dtype", type.name().toLowerCase(Locale.ROOT));
    figures.put("seconds", seconds);
    figures.put("peak_bytes", MemoryUse.now().peakBytes());
    figures.put("output", output.toString());
    json.write(figures);
    return Main.DONE;
  }
}
