// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.ShardPlan;
import org.qlora4j.checkpoint.ShardedOutput;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.WeightFormat;

/**
 * Writes a 16- or 32-bit checkpoint again with its linear weights in 4 bits, under bitsandbytes'
 * tensor names and with its bits, so that transformers loads it. Weights pass through one at a
 * time; all other tensors are copied as they are.
 */
public final class CheckpointQuantizer {

  private static final int COPY_BYTES = 4 << 20;

  /**
   * The offset is known only once a weight is quantized; JSON ignores the blanks that fill the text
   * up.
   */
  private static final int STATE_BYTES = 256;

  private final KernelPack pack;
  private final QuantizationConfig config;
  private final ByteBuffer copy =
      ByteBuffer.allocateDirect(COPY_BYTES).order(ByteOrder.LITTLE_ENDIAN);

  public CheckpointQuantizer(KernelPack pack, QuantizationConfig config) {
    this.pack = pack;
    if (!config.format().is4Bit()) {
      throw new IllegalArgumentException(
          "checkpoints hold NF4 or FP4 weights, found " + config.format());
    }
    this.config = config;
  }

  /**
   * What was written.
   *
   * @param quantizedWeights number of weights now in 4 bits
   * @param bytesBefore bytes of all tensors before
   * @param bytesAfter bytes of all tensors after
   * @param files number of files with weights
   * @param resumedFiles how many of them an interrupted run had finished
   */
  public record Result(
      int quantizedWeights, long bytesBefore, long bytesAfter, int files, int resumedFiles) {}

  /**
   * Quantizes a checkpoint into a new model directory, which appears whole or not at all. Finished
   * files of an interrupted run for the same work are kept, beside the target under a hidden name,
   * and used by the next one after their checksums were compared.
   *
   * @param linearWeights names of the weights to quantize
   * @param modelDirectory where config.json and the tokenizer come from
   * @param shardBytes most bytes of weights in a file
   */
  public Result quantize(
      ModelCheckpoint checkpoint,
      Set<String> linearWeights,
      Path modelDirectory,
      Path target,
      long shardBytes,
      Progress progress) {
    for (String name : linearWeights) {
      int bits = QuantizedTensors.storedBits(checkpoint, name);
      if (bits != 0) {
        throw new InputException(
            checkpoint.directory()
                + ": the weights are in "
                + bits
                + " bits already; nothing was written");
      }
    }
    List<List<ShardPlan.Entry>> groups = new ArrayList<>();
    long after = 0;
    for (TensorSource tensor : checkpoint.tensors()) {
      boolean linear = linearWeights.contains(tensor.name());
      groups.add(linear ? entries(tensor) : List.of(copied(tensor)));
      after += linear ? config.bytes(tensor.elements()) : tensor.bytes();
    }
    ShardPlan plan = ShardPlan.of(groups, shardBytes);
    Work work = new Work(checkpoint, linearWeights, modelDirectory);
    ShardedOutput.Result written =
        ShardedOutput.write(
            target, plan, config + " " + checkpoint.fingerprint(), "quantizing", work, progress);
    return new Result(
        linearWeights.size(), checkpoint.bytes(), after, written.files(), written.resumedFiles());
  }

  /** What goes into the shards. */
  private final class Work implements ShardedOutput.Content {
    private final ModelCheckpoint checkpoint;
    private final Set<String> linearWeights;
    private final Path modelDirectory;

    Work(ModelCheckpoint checkpoint, Set<String> linearWeights, Path modelDirectory) {
      this.checkpoint = checkpoint;
      this.linearWeights = linearWeights;
      this.modelDirectory = modelDirectory;
    }

    /** A 4-bit weight's side tensors are written with it. */
    @Override
    public @Nullable TensorSource source(String name) {
      return checkpoint.find(name);
    }

    @Override
    public void write(SafetensorsWriter writer, TensorSource tensor) {
      if (linearWeights.contains(tensor.name())) {
        quantize(writer, tensor);
      } else {
        tensor.readThrough(copy, (at, bytes) -> writer.write(tensor.name(), bytes));
      }
    }

    @Override
    public void writeCompanions(Path directory) throws IOException {
      writeConfig(modelDirectory, directory);
    }
  }

  private static ShardPlan.Entry copied(TensorSource tensor) {
    return ShardPlan.Entry.of(tensor.name(), tensor.storedType(), tensor.shape());
  }

  /** The tensors of a weight in 4 bits. */
  private List<ShardPlan.Entry> entries(TensorSource tensor) {
    String name = tensor.name();
    long elements = tensor.elements();
    List<ShardPlan.Entry> entries = new ArrayList<>();
    entries.add(ShardPlan.Entry.of(name, StoredType.U8, (elements + 1) / 2, 1));
    entries.add(
        ShardPlan.Entry.of(
            name + ".absmax",
            config.doubleQuantization() ? StoredType.U8 : StoredType.F32,
            config.blocks(elements)));
    entries.add(ShardPlan.Entry.of(name + QuantizedTensors.QUANT_MAP, StoredType.F32, 16));
    if (config.doubleQuantization()) {
      entries.add(
          ShardPlan.Entry.of(
              name + QuantizedTensors.NESTED_ABSMAX,
              StoredType.F32,
              config.nestedBlocks(elements)));
      entries.add(
          ShardPlan.Entry.of(name + QuantizedTensors.NESTED_QUANT_MAP, StoredType.F32, 256));
    }
    entries.add(ShardPlan.Entry.of(name + stateSuffix(), StoredType.U8, STATE_BYTES));
    return entries;
  }

  private void quantize(SafetensorsWriter writer, TensorSource tensor) {
    String name = tensor.name();
    try (DeviceBuffer memory = DeviceBuffer.allocate(pack, tensor.bytes())) {
      DeviceTensor dense = DeviceTensor.of(memory, 0, tensor.dtype(), tensor.shape());
      tensor.readThrough(copy, memory::copyIn);
      try (QuantizedWeight weight = QuantizedWeight.quantize(pack, dense, config)) {
        write(writer, name, weight.codes());
        write(writer, name + ".absmax", weight.absmax());
        writer.write(name + QuantizedTensors.QUANT_MAP, CodeTables.of(config.format()));
        if (weight.nestedAbsmax() != null) {
          write(writer, name + QuantizedTensors.NESTED_ABSMAX, weight.nestedAbsmax());
          writer.write(name + QuantizedTensors.NESTED_QUANT_MAP, CodeTables.dynamicSigned());
        }
        writer.write(name + stateSuffix(), state(weight));
      }
    }
  }

  private void write(SafetensorsWriter writer, String name, DeviceTensor tensor) {
    for (long at = 0; at < tensor.bytes(); at += COPY_BYTES) {
      copy.clear().limit((int) Math.min(COPY_BYTES, tensor.bytes() - at));
      tensor.buffer().copyOut(tensor.byteOffset() + at, copy);
      writer.write(name, copy);
    }
  }

  private String stateSuffix() {
    return config.format() == WeightFormat.NF4
        ? QuantizedTensors.STATE_NF4
        : QuantizedTensors.STATE_FP4;
  }

  /** bitsandbytes' quantization state: its keys, in its order. */
  private ByteBuffer state(QuantizedWeight weight) {
    ObjectNode json = Json.newObject();
    json.put("quant_type", config.format() == WeightFormat.NF4 ? "nf4" : "fp4");
    json.put("blocksize", config.blockSize());
    json.put("dtype", FloatEncoding.configName(weight.originalType()));
    json.putArray("shape").add(weight.rows()).add(weight.cols());
    if (config.doubleQuantization()) {
      json.put("nested_blocksize", QuantizationConfig.NESTED_BLOCK_SIZE);
      json.put("nested_dtype", "float32");
      json.put("nested_offset", (double) weight.nestedOffset());
    }
    byte[] text = Json.compact(json).getBytes(StandardCharsets.UTF_8);
    byte[] padded = Arrays.copyOf(text, STATE_BYTES);
    Arrays.fill(padded, text.length, STATE_BYTES, (byte) ' ');
    return ByteBuffer.wrap(padded);
  }

  private void writeConfig(Path source, Path target) throws IOException {
    ObjectNode config = Json.readObject(source.resolve("config.json"), 16 << 20);
    String dtype = config.path("dtype").asText(config.path("torch_dtype").asText("bfloat16"));
    ModelCheckpoint.copyCompanions(source, target, dtype);
    ObjectNode written = Json.readObject(target.resolve("config.json"), 16 << 20);
    ObjectNode quantization = written.putObject("quantization_config");
    quantization.put("quant_method", "bitsandbytes");
    quantization.put("load_in_4bit", true);
    quantization.put("load_in_8bit", false);
    quantization.put(
        "bnb_4bit_quant_type", this.config.format() == WeightFormat.NF4 ? "nf4" : "fp4");
    quantization.put("bnb_4bit_use_double_quant", this.config.doubleQuantization());
    quantization.put("bnb_4bit_compute_dtype", "bfloat16");
    quantization.put("bnb_4bit_quant_storage", "uint8");
    Files.writeString(target.resolve("config.json"), Json.pretty(written));
  }
}
