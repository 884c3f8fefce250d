// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Text;
import org.qlora4j.gguf.GgufExporter;
import org.qlora4j.gguf.GgufType;
import org.qlora4j.kernels.KernelPack;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code qlora4j export MODEL_DIR OUT.gguf}. */
@Command(
    name = "export",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = {
      "Writes a model as one GGUF file for llama.cpp: Llama, Qwen 2, GPT-NeoX and Polyglot-Ko.",
      "Merge an adapter first. Weights in 4 or 8 bits are dequantized before they are written."
    })
final class ExportCommand implements Callable<Integer> {

  @Spec private CommandSpec spec;

  @Parameters(index = "0", paramLabel = "MODEL_DIR", description = "Hugging Face model directory.")
  private Path model;

  @Parameters(
      index = "1",
      paramLabel = "OUT.gguf",
      description = "The file to write; a file that is there is replaced.")
  private Path output;

  @Option(
      names = "--type",
      defaultValue = "f16",
      description =
          "Element type of the matrices: ${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE}). Vectors are F32.")
  private GgufType type;

  @Mixin private ThreadOption threads = new ThreadOption();

  @Mixin private JsonOption json = new JsonOption();

  @Mixin private PackChoice pack = new PackChoice();

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  ExportCommand() {}

  @Override
  public Integer call() {
    int cpuThreads = threads.count();
    if (!String.valueOf(output.getFileName()).endsWith(".gguf")) {
      throw new InputException("OUT.gguf: expected a name that ends in .gguf, found " + output);
    }
    GgufExporter.Result result;
    try (KernelPack kernels = pack.open(cpuThreads);
        ConsoleProgress progress = new ConsoleProgress(spec.commandLine().getErr())) {
      result = new GgufExporter(kernels, type).export(model, output, progress);
      result.notes().forEach(note -> progress.message("note: " + note));
    }
    PrintWriter out = spec.commandLine().getOut();
    out.printf(
        Locale.ROOT,
        "%d tensors in %s, %s; peak memory %s%n",
        result.tensors(),
        type.name(),
        Text.bytes(result.bytes()),
        Text.bytes(MemoryUse.now().peakBytes()));
    out.println("result " + output);
    ObjectNode figures = Json.newObject();
    figures.put("type", type.name().toLowerCase(Locale.ROOT));
    figures.put("tensors", result.tensors());
    figures.put("bytes", result.bytes());
    ArrayNode notes = figures.putArray("notes");
    result.notes().forEach(notes::add);
    figures.put("peak_bytes", MemoryUse.now().peakBytes());
    figures.put("output", output.toString());
    json.write(figures);
    return Main.DONE;
  }
}
