// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;

/**
 * How the base's weights were held while an adapter was trained. PEFT's files do not say it, so it
 * stands in a file of its own beside them, which PEFT does not read.
 *
 * @param quantization of the blocks' linear weights; null where they were as the model's directory
 *     has them
 */
public record TrainedBase(@Nullable QuantizationConfig quantization) {
  /** The file in the adapter's directory. */
  public static final String FILE = "qlora4j_base.json";

  private static final String THRESHOLD = "llm_int8_threshold";

  private static final long MAX_BYTES = 1 << 16;

  /**
   * What a model's linear weights are. Where the directory held some of them quantized and the
   * training left the others dense, they are as the directory has them.
   *
   * @param asked what the training quantized dense weights to, or null
   */
  public static TrainedBase of(List<Weight> linears, @Nullable QuantizationConfig asked) {
    if (linears.stream().anyMatch(weight -> weight.format() == WeightFormat.DENSE)) {
      return new TrainedBase(null);
    }
    List<QuantizationConfig> held =
        linears.stream().map(weight -> config(weight, asked)).distinct().toList();
    return new TrainedBase(held.size() == 1 ? held.get(0) : asked);
  }

  private static QuantizationConfig config(Weight weight, @Nullable QuantizationConfig asked) {
    return switch (weight.format()) {
      case NF4, FP4 ->
          new QuantizationConfig(
              weight.format(), weight.blockSize(), weight.nestedBlockSize() != 0);
      case INT8 -> QuantizationConfig.int8(asked == null ? 0 : asked.outlierThreshold());
      case FP8 -> QuantizationConfig.fp8();
      case DENSE -> throw new IllegalArgumentException("expected a quantized weight, found DENSE");
    };
  }

  /** Writes the file. */
  public void write(Path adapterDirectory) throws IOException {
    ObjectNode json = Json.newObject();
    QuantizationConfig config = quantization;
    if (config == null) {
      json.putNull("quantization");
    } else {
      json.put("quantization", config.format().name().toLowerCase(Locale.ROOT));
      if (config.format().is4Bit()) {
        json.put("blocksize", config.blockSize());
        json.put("double_quant", config.doubleQuantization());
      }
      if (config.outlierThreshold() > 0) {
        json.put(THRESHOLD, config.outlierThreshold());
      }
    }
    Files.writeString(adapterDirectory.resolve(FILE), Json.pretty(json));
  }

  /** Reads the file of an adapter's directory; null where there is none. */
  public static @Nullable TrainedBase read(Path adapterDirectory) {
    Path file = adapterDirectory.resolve(FILE);
    if (!Files.isRegularFile(file)) {
      return null;
    }
    ObjectNode json = Json.readObject(file, MAX_BYTES);
    JsonNode node = json.path("quantization");
    if (node.isNull()) {
      return new TrainedBase(null);
    }
    String format = node.isTextual() ? node.textValue() : "";
    return switch (format) {
      case "nf4", "fp4" -> new TrainedBase(fourBit(file, json, format));
      case "int8" -> new TrainedBase(QuantizationConfig.int8(threshold(file, json)));
      case "fp8" -> new TrainedBase(QuantizationConfig.fp8());
      default ->
          throw new InputException(
              file
                  + ": quantization: expected null, nf4, fp4, int8 or fp8, found "
                  + Json.kind(node));
    };
  }

  /** 0 where the file does not say it. */
  private static float threshold(Path file, ObjectNode json) {
    if (!json.has(THRESHOLD)) {
      return 0;
    }
    float threshold = json.get(THRESHOLD).floatValue();
    if (!json.get(THRESHOLD).isNumber() || !(threshold >= 0) || !Float.isFinite(threshold)) {
      throw new InputException(
          file
              + ": "
              + THRESHOLD
              + ": expected a number of at least 0, found "
              + Json.kind(json.get(THRESHOLD)));
    }
    return threshold;
  }

  private static QuantizationConfig fourBit(Path file, ObjectNode json, String format) {
    if (!json.path("blocksize").isInt() || !json.path("double_quant").isBoolean()) {
      throw new InputException(
          file
              + ": expected a whole number blocksize and double_quant true or false, found "
              + Text.quote(Json.compact(json)));
    }
    try {
      return new QuantizationConfig(
          format.equals("nf4") ? WeightFormat.NF4 : WeightFormat.FP4,
          json.get("blocksize").intValue(),
          json.get("double_quant").booleanValue());
    } catch (IllegalArgumentException e) {
      throw new InputException(file + ": blocksize: " + e.getMessage(), e);
    }
  }
}
