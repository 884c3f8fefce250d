// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Set;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Quantization8Bit;
import org.qlora4j.kernels.Weight;
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
    this.config = config;
  }

  /**
   * What was written.
   *
   * @param quantizedWeights number of weights now in 4 bits
   * @param bytesBefore bytes of all tensors before
   * @param bytesAfter bytes of all tensors after
   */
  public record Result(int quantizedWeights, long bytesBefore, long bytesAfter) {}

  /**
   * Quantizes a checkpoint into a new model directory, which appears whole or not at all.
   *
   * @param linearWeights names of the weights to quantize
   * @param modelDirectory where config.json and the tokenizer come from
   */
  public Result quantize(
      ModelCheckpoint checkpoint,
      Set<String> linearWeights,
      Path modelDirectory,
      Path target,
      Progress progress) {
    Set<String> toQuantize = new HashSet<>(linearWeights);
    for (String name : linearWeights) {
      if (QuantizedTensors.isQuantized(checkpoint, name)) {
        throw new InputException(
            checkpoint.directory() + ": the weights are in 4 bits already; nothing was written");
      }
    }
    try (AtomicOutput out = AtomicOutput.directory(target)) {
      try (SafetensorsWriter writer =
          SafetensorsWriter.create(out.path().resolve(ModelCheckpoint.SINGLE_FILE))) {
        long after = 0;
        for (TensorSource tensor : checkpoint.tensors()) {
          after +=
              toQuantize.contains(tensor.name())
                  ? declare(writer, tensor)
                  : declareCopy(writer, tensor);
        }
        progress.start("quantizing", checkpoint.bytes() >> 20);
        long done = 0;
        for (TensorSource tensor : checkpoint.tensors()) {
          progress.update(done >> 20, tensor.name());
          if (toQuantize.contains(tensor.name())) {
            write(writer, tensor);
          } else {
            copy(writer, tensor);
          }
          done += tensor.bytes();
        }
        progress.finish();
        writer.commit();
        writeConfig(modelDirectory, out.path());
        out.commit();
        return new Result(toQuantize.size(), checkpoint.bytes(), after);
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + target, e);
    }
  }

  private long declareCopy(SafetensorsWriter writer, TensorSource tensor) {
    writer.declare(tensor.name(), tensor.storedType(), tensor.shape());
    return tensor.bytes();
  }

  private long declare(SafetensorsWriter writer, TensorSource tensor) {
    String name = tensor.name();
    long elements = tensor.elements();
    writer.declare(name, StoredType.U8, (elements + 1) / 2, 1);
    writer.declare(
        name + ".absmax",
        config.doubleQuantization() ? StoredType.U8 : StoredType.F32,
        config.blocks(elements));
    writer.declare(name + ".quant_map", StoredType.F32, 16);
    if (config.doubleQuantization()) {
      writer.declare(name + ".nested_absmax", StoredType.F32, config.nestedBlocks(elements));
      writer.declare(name + ".nested_quant_map", StoredType.F32, 256);
    }
    writer.declare(name + stateSuffix(), StoredType.U8, STATE_BYTES);
    return config.bytes(elements);
  }

  private void write(SafetensorsWriter writer, TensorSource tensor) {
    String name = tensor.name();
    try (DeviceBuffer memory = DeviceBuffer.allocate(pack, tensor.bytes())) {
      DeviceTensor dense = DeviceTensor.of(memory, 0, tensor.dtype(), tensor.shape());
      for (long at = 0; at < tensor.bytes(); at += COPY_BYTES) {
        read(tensor, at);
        memory.copyIn(at, copy);
      }
      try (QuantizedWeight weight = QuantizedWeight.quantize(pack, dense, config)) {
        write(writer, name, weight.codes());
        write(writer, name + ".absmax", weight.absmax());
        writer.write(name + ".quant_map", codeTable());
        if (weight.nestedAbsmax() != null) {
          write(writer, name + ".nested_absmax", weight.nestedAbsmax());
          writer.write(name + ".nested_quant_map", dynamicMap());
        }
        writer.write(name + stateSuffix(), state(weight));
      }
    }
  }

  private void copy(SafetensorsWriter writer, TensorSource tensor) {
    for (long at = 0; at < tensor.bytes(); at += COPY_BYTES) {
      read(tensor, at);
      writer.write(tensor.name(), copy);
    }
  }

  private void read(TensorSource tensor, long at) {
    copy.clear().limit((int) Math.min(COPY_BYTES, tensor.bytes() - at));
    tensor.read(at, copy);
    copy.flip();
  }

  private static void write(SafetensorsWriter writer, String name, DeviceTensor tensor) {
    writer.write(name, ByteBuffer.wrap(tensor.toBytes()).order(ByteOrder.LITTLE_ENDIAN));
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
    json.put("dtype", typeName(weight.originalType()));
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

  private static String typeName(DType type) {
    return switch (type) {
      case BF16 -> "bfloat16";
      case F16 -> "float16";
      default -> "float32";
    };
  }

  /** The values of the 16 codes, as the pack dequantizes them. */
  private float[] codeTable() {
    int block = 32;
    try (DeviceBuffer memory = DeviceBuffer.allocate(pack, 1024)) {
      DeviceTensor codes = DeviceTensor.of(memory, 0, DType.U8, block / 2);
      byte[] pairs = new byte[block / 2];
      for (int i = 0; i < 8; i++) {
        pairs[i] = (byte) (((2 * i) << 4) | (2 * i + 1));
      }
      codes.copyFrom(pairs);
      DeviceTensor one = DeviceTensor.of(memory, 64, DType.F32, 1);
      one.copyFrom(new float[] {1});
      DeviceTensor values = DeviceTensor.of(memory, 128, DType.F32, 1, block);
      Weight weight =
          new Weight(config.format(), DType.F32, block, 0, 0, 1, block, codes, one, null);
      Quantization4Bit.dequantize(pack, weight, values);
      return Arrays.copyOf(values.toFloats(), 16);
    }
  }

  /** The 256 values of the signed dynamic map, as the pack dequantizes them. */
  private float[] dynamicMap() {
    try (DeviceBuffer memory = DeviceBuffer.allocate(pack, 2048)) {
      DeviceTensor codes = DeviceTensor.of(memory, 0, DType.U8, 256);
      byte[] all = new byte[256];
      for (int i = 0; i < all.length; i++) {
        all[i] = (byte) i;
      }
      codes.copyFrom(all);
      DeviceTensor one = DeviceTensor.of(memory, 256, DType.F32, 1);
      one.copyFrom(new float[] {1});
      DeviceTensor values = DeviceTensor.of(memory, 512, DType.F32, 256);
      Quantization8Bit.dequantize(
          pack, Quantization8Bit.Map.DYNAMIC_SIGNED, 256, codes, one, values);
      return values.toFloats();
    }
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
