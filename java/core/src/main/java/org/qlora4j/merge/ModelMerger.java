// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.merge;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.ShardPlan;
import org.qlora4j.checkpoint.ShardedOutput;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.quant.DenseRows;
import org.qlora4j.quant.FloatEncoding;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;

/**
 * Writes a model again with an adapter added to its weights: {@code W + s * B * A}, with DoRA
 * scaled to the magnitude vector, and with the modules and biases that were trained in full in the
 * place of the base's. The result is a plain model in 16 or 32 bits. One tensor at a time is in
 * memory, and a dense one only some rows of it; sums are made in f32 and rounded once.
 *
 * <p>Tensors are found by their names, so any architecture's checkpoint can be merged.
 */
public final class ModelMerger {
  private static final long MAX_CONFIG_BYTES = 16 << 20;

  /** Elements in memory at a time, of a dense tensor. */
  private static final int CHUNK_ELEMENTS = 1 << 20;

  private final KernelPack pack;
  private final Options options;

  /**
   * How to merge.
   *
   * @param base null to merge into the weights as they are stored, quantized ones dequantized; else
   *     weights are quantized so and dequantized before, as a training on such a base saw them
   * @param linearWeights names of the weights that {@code base} quantizes
   * @param type of all floating-point tensors that are written; null to keep each one's
   * @param shardBytes most bytes of weights in a file
   */
  public record Options(
      @Nullable QuantizationConfig base,
      Set<String> linearWeights,
      @Nullable DType type,
      long shardBytes) {
    public Options {
      linearWeights = Set.copyOf(linearWeights);
      if (type != null && type != DType.F32 && type != DType.BF16 && type != DType.F16) {
        throw new IllegalArgumentException("models are written in F32, BF16 or F16, not " + type);
      }
    }
  }

  /**
   * What was written.
   *
   * @param mergedWeights number of weights an adapter was added to
   * @param replacedTensors number of tensors that trained ones took the place of
   * @param savedTensors number of tensors, the embedding's and the head's, that are what the
   *     adapter saved of them and not what the base has
   * @param headSeparated whether embedding and head, one tensor in the base, became two
   * @param dora whether it was a DoRA adapter
   * @param type of the merged weights
   * @param bytesBefore bytes of all tensors before
   * @param bytesAfter bytes of all tensors after
   * @param files number of files with weights
   * @param resumedFiles how many of them an interrupted run had finished
   */
  public record Result(
      int mergedWeights,
      int replacedTensors,
      int savedTensors,
      boolean headSeparated,
      boolean dora,
      DType type,
      long bytesBefore,
      long bytesAfter,
      int files,
      int resumedFiles) {}

  public ModelMerger(KernelPack pack, Options options) {
    this.pack = pack;
    this.options = options;
  }

  /**
   * Merges into a new model directory, which appears whole or not at all; see {@link
   * ShardedOutput}.
   *
   * @param modelDirectory where config.json and the tokenizer come from
   */
  public Result merge(
      ModelCheckpoint checkpoint,
      Path modelDirectory,
      Path adapterDirectory,
      Path target,
      Progress progress) {
    try (PeftAdapterFile adapter = PeftAdapterFile.open(adapterDirectory)) {
      ObjectNode config = Json.readObject(modelDirectory.resolve("config.json"), MAX_CONFIG_BYTES);
      MergePlan tensors =
          new MergePlan(checkpoint, modelDirectory, config, adapter, adapterDirectory);
      LoraConfig lora = adapter.config().lora();
      Merge merge = new Merge(checkpoint, config, modelDirectory, lora, tensors);
      ShardPlan plan = ShardPlan.of(merge.entries(), options.shardBytes());
      // A set has no order of its own.
      String work =
          options.base()
              + " "
              + options.type()
              + " "
              + checkpoint.fingerprint()
              + " "
              + adapter.fingerprint();
      ShardedOutput.Result written =
          ShardedOutput.write(target, plan, work, "merging", merge, progress);
      return new Result(
          adapter.pairs().size(),
          adapter.copies().size(),
          tensors.savedOthers(),
          tensors.separatesHead(),
          lora.dora(),
          merge.mergedType(),
          checkpoint.bytes(),
          plan.bytes(),
          written.files(),
          written.resumedFiles());
    }
  }

  /** Whether tensors of this type can be merged into, and are written in another type. */
  static boolean isFloating(StoredType type) {
    return type == StoredType.F32 || type == StoredType.BF16 || type == StoredType.F16;
  }

  /** One merge. */
  private final class Merge implements ShardedOutput.Content {
    private final ModelCheckpoint checkpoint;
    private final ObjectNode config;
    private final Path modelDirectory;
    private final LoraConfig lora;
    private final MergePlan tensors;
    private final ByteBuffer host =
        ByteBuffer.allocateDirect(CHUNK_ELEMENTS * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);

    Merge(
        ModelCheckpoint checkpoint,
        ObjectNode config,
        Path modelDirectory,
        LoraConfig lora,
        MergePlan tensors) {
      this.checkpoint = checkpoint;
      this.config = config;
      this.modelDirectory = modelDirectory;
      this.lora = lora;
      this.tensors = tensors;
    }

    private boolean isQuantized(TensorSource tensor) {
      return QuantizedTensors.isQuantized(checkpoint, tensor.name());
    }

    /** The type that a floating-point or quantized tensor of the base has in the result. */
    private DType type(TensorSource tensor) {
      DType type = options.type();
      if (type != null) {
        return type;
      }
      if (!isQuantized(tensor)) {
        return tensor.dtype();
      }
      QuantizedTensors quantized = QuantizedTensors.of(checkpoint, tensor.name());
      return quantized.config().format().is4Bit() ? quantized.originalType() : configType();
    }

    /** LLM.int8 weights do not say what they were. */
    private DType configType() {
      DType type =
          FloatEncoding.byConfigName(
              config.path("dtype").asText(config.path("torch_dtype").asText()));
      return type == null ? DType.BF16 : type;
    }

    DType mergedType() {
      return type(tensors.firstMerged().base());
    }

    List<List<ShardPlan.Entry>> entries() {
      List<List<ShardPlan.Entry>> entries = new ArrayList<>();
      for (MergePlan.Tensor tensor : tensors.tensors()) {
        TensorSource base = tensor.base();
        StoredType type =
            isQuantized(base) || isFloating(base.storedType())
                ? StoredType.of(type(base))
                : base.storedType();
        entries.add(List.of(ShardPlan.Entry.of(tensor.name(), type, tensors.shape(base))));
      }
      return entries;
    }

    @Override
    public TensorSource source(String name) {
      return tensors.tensor(name).source();
    }

    @Override
    public void write(SafetensorsWriter writer, TensorSource source) {
      MergePlan.Tensor tensor = tensors.tensor(source.name());
      boolean replaced = tensor.copy() != null;
      boolean quantized = !replaced && isQuantized(tensor.base());
      boolean requantized =
          !replaced && options.base() != null && options.linearWeights().contains(tensor.name());
      PeftAdapterFile.Pair pair = tensor.pair();
      if (pair == null
          && !quantized
          && !requantized
          && (!isFloating(source.storedType()) || type(tensor.base()) == source.dtype())) {
        source.readThrough(host, (at, bytes) -> writer.write(source.name(), bytes));
        return;
      }
      DType type = type(tensor.base());
      try (DenseRows rows =
          quantized
              ? DenseRows.of(pack, QuantizedTensors.of(checkpoint, tensor.name()))
              : requantized
                  ? DenseRows.quantized(pack, source, Objects.requireNonNull(options.base()))
                  : DenseRows.of(source)) {
        int chunk = rows.rowsOf(CHUNK_ELEMENTS);
        if (pair == null) {
          write(writer, source, rows, chunk, type, null);
          return;
        }
        try (LowRankUpdate update =
            new LowRankUpdate(pack, pair, lora.scaling(pair.module()), chunk)) {
          write(writer, source, rows, chunk, type, update);
        }
      }
    }

    private void write(
        SafetensorsWriter writer,
        TensorSource tensor,
        DenseRows rows,
        int chunk,
        DType type,
        @Nullable LowRankUpdate update) {
      float[] values = new float[Math.toIntExact(chunk * rows.cols())];
      for (long first = 0; first < rows.rows(); first += chunk) {
        int count = (int) Math.min(chunk, rows.rows() - first);
        rows.read(first, count, values);
        if (update != null) {
          update.apply(first, count, values);
        }
        int elements = Math.toIntExact(count * rows.cols());
        for (int at = 0; at < elements; at += CHUNK_ELEMENTS) {
          host.clear();
          if (!FloatEncoding.encode(
              values, at, Math.min(CHUNK_ELEMENTS, elements - at), type, host)) {
            throw new InputException(
                tensor.file()
                    + ": tensor "
                    + Text.quote(tensor.name())
                    + ": expected values of at most 65504 for float16, found larger ones; use"
                    + " --dtype bfloat16");
          }
          writer.write(tensor.name(), host.flip());
        }
      }
    }

    @Override
    public void writeCompanions(Path directory) throws IOException {
      ModelCheckpoint.copyCompanions(
          modelDirectory, directory, FloatEncoding.configName(mergedType()));
      Path file = directory.resolve("config.json");
      ObjectNode written = Json.readObject(file, MAX_CONFIG_BYTES);
      written.remove("quantization_config");
      if (tensors.separatesHead()) {
        written.put("tie_word_embeddings", false);
      }
      Files.writeString(file, Json.pretty(written));
    }
  }
}
