// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.WeightFormat;

/**
 * The tensors in which bitsandbytes stores one 4-bit weight {@code W} of a checkpoint: {@code W}
 * (codes), {@code W.absmax}, with double quantization {@code W.nested_absmax}, and a JSON text in
 * {@code W.quant_state.bitsandbytes__nf4} (or fp4). The code tables it also stores are those every
 * reader knows, and are not read.
 *
 * @param config how the weight was quantized
 * @param originalType element type before it was
 * @param rows out features
 * @param cols in features
 * @param nestedOffset mean of the absmax values; 0 without double quantization
 * @param codes u8 [(rows * cols + 1) / 2]
 * @param absmax u8 codes with double quantization, else f32: [blocks]
 * @param nestedAbsmax f32, or null without double quantization
 */
public record QuantizedTensors(
    QuantizationConfig config,
    DType originalType,
    long rows,
    long cols,
    float nestedOffset,
    TensorSource codes,
    TensorSource absmax,
    @Nullable TensorSource nestedAbsmax) {

  static final String STATE_NF4 = ".quant_state.bitsandbytes__nf4";
  static final String STATE_FP4 = ".quant_state.bitsandbytes__fp4";

  /** Endings of all tensors that belong to a 4-bit weight, besides the weight itself. */
  private static final List<String> SIDE_TENSORS =
      List.of(".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE_NF4, STATE_FP4);

  private static final long MAX_STATE_BYTES = 1 << 16;

  /** Whether {@code name} is a tensor beside a 4-bit weight that {@code checkpoint} holds. */
  public static boolean isSideTensor(ModelCheckpoint checkpoint, String name) {
    return SIDE_TENSORS.stream()
        .anyMatch(
            s ->
                name.endsWith(s)
                    && isQuantized(checkpoint, name.substring(0, name.length() - s.length())));
  }

  /** Whether the checkpoint holds this weight in 4 bits. */
  public static boolean isQuantized(ModelCheckpoint checkpoint, String weight) {
    return checkpoint.find(weight + STATE_NF4) != null
        || checkpoint.find(weight + STATE_FP4) != null;
  }

  /**
   * The tensors of a 4-bit weight, every size checked.
   *
   * @throws InputException when a part is missing or does not fit the others
   */
  public static QuantizedTensors of(ModelCheckpoint checkpoint, String weight) {
    TensorSource state = checkpoint.find(weight + STATE_NF4);
    WeightFormat format = state == null ? WeightFormat.FP4 : WeightFormat.NF4;
    if (state == null) {
      state = checkpoint.tensor(weight + STATE_FP4);
    }
    Reader reader = new Reader(state);
    boolean nested = reader.json.hasNonNull("nested_blocksize");
    if (nested && reader.integer("nested_blocksize") != QuantizationConfig.NESTED_BLOCK_SIZE) {
      throw reader.wrong("nested_blocksize", "256", reader.json.get("nested_blocksize").asText());
    }
    String name = format == WeightFormat.NF4 ? "nf4" : "fp4";
    if (!name.equals(reader.text("quant_type"))) {
      throw reader.wrong("quant_type", name, reader.text("quant_type"));
    }
    long blockSize = reader.integer("blocksize");
    if (blockSize < 32 || blockSize > 4096 || Long.bitCount(blockSize) != 1) {
      throw reader.wrong("blocksize", "a power of two from 32 to 4096", Long.toString(blockSize));
    }
    QuantizationConfig config = new QuantizationConfig(format, (int) blockSize, nested);
    long[] shape = reader.shape();
    DType original =
        switch (reader.text("dtype")) {
          case "float32" -> DType.F32;
          case "bfloat16" -> DType.BF16;
          case "float16" -> DType.F16;
          default ->
              throw reader.wrong("dtype", "float32, bfloat16 or float16", reader.text("dtype"));
        };
    long elements = Math.multiplyExact(shape[0], shape[1]);
    long blocks = config.blocks(elements);
    TensorSource codes = sized(checkpoint.tensor(weight), StoredType.U8, (elements + 1) / 2);
    TensorSource absmax =
        sized(
            checkpoint.tensor(weight + ".absmax"), nested ? StoredType.U8 : StoredType.F32, blocks);
    TensorSource nestedAbsmax =
        nested
            ? sized(
                checkpoint.tensor(weight + ".nested_absmax"),
                StoredType.F32,
                config.nestedBlocks(elements))
            : null;
    float offset = nested ? (float) reader.number("nested_offset") : 0f;
    return new QuantizedTensors(
        config, original, shape[0], shape[1], offset, codes, absmax, nestedAbsmax);
  }

  private static TensorSource sized(TensorSource tensor, StoredType type, long elements) {
    if (tensor.storedType() != type || tensor.elements() != elements) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + " of a 4-bit weight: expected "
              + elements
              + " elements of "
              + type
              + ", found "
              + tensor.elements()
              + " of "
              + tensor.storedType());
    }
    return tensor;
  }

  /** Reads the JSON text of a quant_state tensor. */
  private static final class Reader {
    private final TensorSource source;
    private final ObjectNode json;

    Reader(TensorSource source) {
      this.source = source;
      if (source.storedType() != StoredType.U8 || source.bytes() > MAX_STATE_BYTES) {
        throw new InputException(
            source.file()
                + ": tensor "
                + Text.quote(source.name())
                + ": expected a short JSON text in U8, found "
                + source.bytes()
                + " bytes of "
                + source.storedType());
      }
      this.json = Json.object(new String(source.toBytes(), StandardCharsets.UTF_8), place());
    }

    String text(String key) {
      if (!json.path(key).isTextual()) {
        throw wrong(key, "a text", Json.kind(json.path(key)));
      }
      return json.get(key).textValue();
    }

    long integer(String key) {
      if (!json.path(key).isIntegralNumber()) {
        throw wrong(key, "a whole number", Json.kind(json.path(key)));
      }
      return json.get(key).longValue();
    }

    double number(String key) {
      if (!json.path(key).isNumber() || !Double.isFinite(json.get(key).doubleValue())) {
        throw wrong(key, "a number", Json.kind(json.path(key)));
      }
      return json.get(key).doubleValue();
    }

    long[] shape() {
      var shape = json.path("shape");
      boolean matrix = shape.isArray() && shape.size() == 2;
      for (int i = 0; matrix && i < 2; i++) {
        matrix = shape.get(i).canConvertToInt() && shape.get(i).intValue() > 0;
      }
      if (!matrix) {
        throw wrong("shape", "two positive numbers", shape.toString());
      }
      return new long[] {shape.get(0).intValue(), shape.get(1).intValue()};
    }

    InputException wrong(String key, String expected, String found) {
      return new InputException(
          place() + ": " + key + ": expected " + expected + ", found " + Text.quote(found));
    }

    private String place() {
      return source.file() + ": tensor " + Text.quote(source.name());
    }
  }
}
