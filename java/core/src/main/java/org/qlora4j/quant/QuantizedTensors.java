// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.WeightFormat;

/**
 * The tensors in which bitsandbytes stores one quantized weight {@code W} of a checkpoint.
 *
 * <p>4 bits: {@code W} (codes, in U8 or, with {@code bnb_4bit_quant_storage}, as the bytes of a
 * floating-point type), {@code W.absmax}, with double quantization {@code W.nested_absmax}, the
 * code tables {@code W.quant_map} and {@code W.nested_quant_map}, and a JSON text in {@code
 * W.quant_state.bitsandbytes__nf4} (or fp4). The tables must be those that the packs decode with.
 *
 * <p>8 bits (LLM.int8), of a module {@code P}: {@code P.weight} in I8, {@code P.SCB} with a row's
 * absmax, and {@code P.weight_format}, 0 for row-major.
 *
 * @param config how the weight was quantized; for 8 bits without an outlier threshold
 * @param originalType element type before it was; F16 for 8 bits, which do not say
 * @param rows out features
 * @param cols in features
 * @param nestedOffset mean of the absmax values; 0 without double quantization
 * @param codes (rows * cols + 1) / 2 bytes in 4 bits, I8 [rows, cols] in 8
 * @param absmax u8 codes with double quantization, else f32: [blocks]; [rows] in 8 bits
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
  static final String QUANT_MAP = ".quant_map";
  static final String NESTED_ABSMAX = ".nested_absmax";
  static final String NESTED_QUANT_MAP = ".nested_quant_map";

  private static final String WEIGHT = "weight";
  private static final String SCB = "SCB";
  private static final String WEIGHT_FORMAT = "weight_format";

  /** Endings of all tensors that belong to a 4-bit weight, besides the weight itself. */
  private static final List<String> SIDE_TENSORS =
      List.of(".absmax", QUANT_MAP, NESTED_ABSMAX, NESTED_QUANT_MAP, STATE_NF4, STATE_FP4);

  private static final long MAX_STATE_BYTES = 1 << 16;

  /**
   * How far a table's value may be from the packs'. Versions of bitsandbytes and torch agree to the
   * bit where they could be compared; one unit in the last place would not be another table.
   */
  private static final float TABLE_TOLERANCE = 1e-6f;

  /** Whether {@code name} is a tensor beside a quantized weight that {@code checkpoint} holds. */
  public static boolean isSideTensor(ModelCheckpoint checkpoint, String name) {
    return SIDE_TENSORS.stream()
            .anyMatch(
                s ->
                    name.endsWith(s)
                        && storedBits(checkpoint, name.substring(0, name.length() - s.length()))
                            == 4)
        || isInt8SideTensor(checkpoint, name, SCB)
        || isInt8SideTensor(checkpoint, name, WEIGHT_FORMAT);
  }

  private static boolean isInt8SideTensor(ModelCheckpoint checkpoint, String name, String part) {
    return name.endsWith("." + part)
        && storedBits(checkpoint, name.substring(0, name.length() - part.length()) + WEIGHT) == 8;
  }

  /** Whether the checkpoint holds this weight in 4 or 8 bits. */
  public static boolean isQuantized(ModelCheckpoint checkpoint, String weight) {
    return storedBits(checkpoint, weight) != 0;
  }

  /** Bits of this weight's codes, 4 or 8; 0 where it is not quantized, or not there. */
  public static int storedBits(ModelCheckpoint checkpoint, String weight) {
    if (checkpoint.find(weight + STATE_NF4) != null
        || checkpoint.find(weight + STATE_FP4) != null) {
      return 4;
    }
    TensorSource tensor = checkpoint.find(weight);
    return tensor != null
            && tensor.storedType() == StoredType.I8
            && checkpoint.find(beside(weight, SCB)) != null
        ? 8
        : 0;
  }

  /** Most bits that a quantized weight of the checkpoint has, 4 or 8; 0 where none is quantized. */
  public static int storedBits(ModelCheckpoint checkpoint) {
    return checkpoint.names().stream()
        .mapToInt(name -> storedBits(checkpoint, name))
        .max()
        .orElse(0);
  }

  /** {@code P.part} for a weight {@code P.weight}. */
  private static String beside(String weight, String part) {
    return weight.endsWith("." + WEIGHT)
        ? weight.substring(0, weight.length() - WEIGHT.length()) + part
        : weight + "." + part;
  }

  /**
   * The tensors of a quantized weight, every size checked.
   *
   * @throws InputException when a part is missing or does not fit the others
   */
  public static QuantizedTensors of(ModelCheckpoint checkpoint, String weight) {
    return storedBits(checkpoint, weight) == 8
        ? int8(checkpoint, weight)
        : fourBit(checkpoint, weight);
  }

  private static QuantizedTensors int8(ModelCheckpoint checkpoint, String weight) {
    TensorSource codes = checkpoint.tensor(weight);
    long[] shape = codes.shape();
    if (shape.length != 2 || shape[0] < 1 || shape[1] < 1) {
      throw new InputException(
          codes.file()
              + ": tensor "
              + Text.quote(weight)
              + ": expected an 8-bit weight [out, in], found the shape "
              + Arrays.toString(shape));
    }
    TensorSource absmax =
        sized(checkpoint.tensor(beside(weight, SCB)), "an 8-bit weight", StoredType.F32, shape[0]);
    TensorSource order = checkpoint.find(beside(weight, WEIGHT_FORMAT));
    if (order != null) {
      sized(order, "an 8-bit weight", StoredType.U8, 1);
      if (order.toBytes()[0] != 0) {
        throw new InputException(
            order.file()
                + ": tensor "
                + Text.quote(order.name())
                + ": expected 0 (row-major), found "
                + (order.toBytes()[0] & 0xff)
                + "; save the model again with bitsandbytes 0.45 or newer");
      }
    }
    return new QuantizedTensors(
        QuantizationConfig.int8(0), DType.F16, shape[0], shape[1], 0f, codes, absmax, null);
  }

  private static QuantizedTensors fourBit(ModelCheckpoint checkpoint, String weight) {
    TensorSource state = checkpoint.find(weight + STATE_NF4);
    WeightFormat format = state == null ? WeightFormat.FP4 : WeightFormat.NF4;
    if (state == null) {
      state = checkpoint.tensor(weight + STATE_FP4);
    }
    Reader reader = new Reader(state);
    // As bitsandbytes decides it; other writers leave zeros in the text without double
    // quantization.
    boolean nested = checkpoint.find(weight + NESTED_ABSMAX) != null;
    if (nested && reader.integer("nested_blocksize") != QuantizationConfig.NESTED_BLOCK_SIZE) {
      throw reader.wrong("nested_blocksize", "256", reader.json.get("nested_blocksize").asText());
    }
    if (nested
        && reader.json.has("nested_dtype")
        && !reader.text("nested_dtype").equals("float32")) {
      throw reader.wrong("nested_dtype", "float32", Text.quote(reader.text("nested_dtype")));
    }
    String name = format == WeightFormat.NF4 ? "nf4" : "fp4";
    if (!name.equals(reader.text("quant_type"))) {
      throw reader.wrong("quant_type", name, Text.quote(reader.text("quant_type")));
    }
    long blockSize = reader.integer("blocksize");
    if (blockSize < 32 || blockSize > 4096 || Long.bitCount(blockSize) != 1) {
      throw reader.wrong("blocksize", "a power of two from 32 to 4096", Long.toString(blockSize));
    }
    QuantizationConfig config = new QuantizationConfig(format, (int) blockSize, nested);
    long[] shape = reader.shape();
    DType original = FloatEncoding.byConfigName(reader.text("dtype"));
    if (original == null) {
      throw reader.wrong("dtype", "float32, bfloat16 or float16", Text.quote(reader.text("dtype")));
    }
    long elements = Math.multiplyExact(shape[0], shape[1]);
    long blocks = config.blocks(elements);
    TensorSource codes = codes(checkpoint.tensor(weight), (elements + 1) / 2);
    TensorSource absmax =
        sized(
            checkpoint.tensor(weight + ".absmax"),
            "a 4-bit weight",
            nested ? StoredType.U8 : StoredType.F32,
            blocks);
    TensorSource nestedAbsmax =
        nested
            ? sized(
                checkpoint.tensor(weight + NESTED_ABSMAX),
                "a 4-bit weight",
                StoredType.F32,
                config.nestedBlocks(elements))
            : null;
    checkTable(checkpoint.find(weight + QUANT_MAP), CodeTables.of(format));
    if (nested) {
      checkTable(checkpoint.find(weight + NESTED_QUANT_MAP), CodeTables.dynamicSigned());
    }
    float offset = nested ? (float) reader.number("nested_offset") : 0f;
    if (!Float.isFinite(offset)) {
      throw reader.wrong(
          "nested_offset", "a number of 32 bits", reader.json.get("nested_offset").asText());
    }
    return new QuantizedTensors(
        config, original, shape[0], shape[1], offset, codes, absmax, nestedAbsmax);
  }

  /** The packed codes: the type they are stored as says nothing, only their bytes count. */
  private static TensorSource codes(TensorSource tensor, long bytes) {
    switch (tensor.storedType()) {
      case U8, I8, BF16, F16, F32, F64 -> {}
      default ->
          throw new InputException(
              tensor.file()
                  + ": tensor "
                  + Text.quote(tensor.name())
                  + " of a 4-bit weight: expected U8 or the bytes of BF16, F16 or F32, found "
                  + tensor.storedType());
    }
    if (tensor.bytes() != bytes) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + " of a 4-bit weight: expected "
              + bytes
              + " bytes for the shape in its quantization state, found "
              + tensor.bytes());
    }
    return tensor;
  }

  /** A stored table of codes, where there is one, must be the one the packs decode with. */
  private static void checkTable(@Nullable TensorSource table, float[] known) {
    if (table == null) {
      return;
    }
    sized(table, "a 4-bit weight", StoredType.F32, known.length);
    float[] stored = table.toFloats();
    for (int i = 0; i < known.length; i++) {
      // Written so that a NaN fails.
      if (!(Math.abs(stored[i] - known[i]) <= TABLE_TOLERANCE)) {
        throw new InputException(
            table.file()
                + ": tensor "
                + Text.quote(table.name())
                + ": expected bitsandbytes' own table of codes, with "
                + known[i]
                + " at "
                + i
                + ", found "
                + stored[i]);
      }
    }
  }

  private static TensorSource sized(
      TensorSource tensor, String of, StoredType type, long elements) {
    if (tensor.storedType() != type || tensor.elements() != elements) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + " of "
              + of
              + ": expected "
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

  /**
   * The weight on the pack's device, its bits as they are stored, in the canonical layout.
   *
   * @param host through which the bytes go; its content is lost
   */
  public QuantizedWeight load(KernelPack pack, ByteBuffer host) {
    QuantizedWeight weight =
        QuantizedWeight.allocate(pack, config, originalType, rows, cols, nestedOffset);
    try {
      upload(codes, weight.codes(), host);
      upload(absmax, weight.absmax(), host);
      DeviceTensor nested = weight.nestedAbsmax();
      if (nestedAbsmax != null && nested != null) {
        upload(nestedAbsmax, nested, host);
      }
      return weight;
    } catch (RuntimeException e) {
      weight.close();
      throw e;
    }
  }

  private static void upload(TensorSource source, DeviceTensor target, ByteBuffer host) {
    if (!target.pack().isDryRun()) {
      source.readThrough(
          host, (at, bytes) -> target.buffer().copyIn(target.byteOffset() + at, bytes));
    }
  }

  /** Reads the JSON text of a quant_state tensor. */
  private static final class Reader {
    private final TensorSource source;
    private final ObjectNode json;

    Reader(TensorSource source) {
      this.source = source;
      if (source.storedType() != StoredType.U8 || source.bytes() > MAX_STATE_BYTES) {
        throw new InputException(
            place()
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
      if (!json.path(key).isIntegralNumber() || !json.get(key).canConvertToLong()) {
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
        matrix =
            shape.get(i).isIntegralNumber()
                && shape.get(i).canConvertToInt()
                && shape.get(i).intValue() > 0;
      }
      if (!matrix) {
        throw wrong("shape", "two positive numbers", Text.quote(shape.toString()));
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
