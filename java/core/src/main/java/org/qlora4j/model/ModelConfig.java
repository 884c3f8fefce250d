// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;

/**
 * What one decoder block needs to know of a model, read from a Hugging Face {@code config.json}:
 * both the older keys (rope_theta, rope_scaling, rotary_pct, torch_dtype) and those of transformers
 * 5 (rope_parameters, dtype). The file is not trusted; a value that is missing, of a wrong kind or
 * out of range gives one line with its key.
 *
 * @param architecture the table of tensor names
 * @param vocabSize rows of the embedding and of the head
 * @param hiddenSize width of the residual stream
 * @param layers number of decoder blocks
 * @param heads query heads
 * @param kvHeads key/value heads; divides `heads`
 * @param headDim width of a head, even
 * @param ffnSize width inside the MLP
 * @param norm kind of all norms
 * @param normEps their epsilon
 * @param activation of the MLP
 * @param gatedMlp whether the MLP is down(act(gate(x)) * up(x)) or down(act(up(x)))
 * @param fusedQkv whether one linear makes q, k and v, laid out per head as [q | k | v]
 * @param parallelResidual x + attention(norm1(x)) + mlp(norm2(x)) instead of one after the other
 * @param rotaryDim how many elements of a head are rotated, even
 * @param ropeTheta base of the rotary frequencies
 * @param ropeScaling how the frequencies are scaled
 * @param attentionBias whether q, k, v and the attention's output have biases
 * @param mlpBias whether the MLP's linears have biases
 * @param tiedHead whether the head is the embedding
 * @param maxPositions longest sequence the model was made for
 * @param bosId beginning-of-sequence token, or null
 * @param eosIds end-of-sequence tokens, the first being the one to train; may be empty
 * @param padId padding token, or null; never used to mask anything
 * @param initializerRange standard deviation of random initial weights
 * @param dtype type the weights are stored in as the config says, or null
 */
public record ModelConfig(
    Architecture architecture,
    int vocabSize,
    int hiddenSize,
    int layers,
    int heads,
    int kvHeads,
    int headDim,
    int ffnSize,
    Norm norm,
    float normEps,
    Activation activation,
    boolean gatedMlp,
    boolean fusedQkv,
    boolean parallelResidual,
    int rotaryDim,
    double ropeTheta,
    RopeScaling ropeScaling,
    boolean attentionBias,
    boolean mlpBias,
    boolean tiedHead,
    int maxPositions,
    @Nullable Integer bosId,
    List<Integer> eosIds,
    @Nullable Integer padId,
    double initializerRange,
    @Nullable DType dtype) {

  /** Architectures whose tensor names are known. */
  public enum Architecture {
    LLAMA("llama"),
    GPT_NEOX("gpt_neox");

    private final String modelType;

    Architecture(String modelType) {
      this.modelType = modelType;
    }

    /** The config's `model_type`. */
    public String modelType() {
      return modelType;
    }
  }

  /** Kind of the norms; LAYER_NORM has biases. */
  public enum Norm {
    RMS_NORM,
    LAYER_NORM
  }

  /** Activation of the MLP. */
  public enum Activation {
    SILU,
    GELU_ERF,
    GELU_TANH
  }

  /** How rotary frequencies are scaled for longer contexts. */
  public sealed interface RopeScaling {
    /** Not at all. */
    record None() implements RopeScaling {}

    /** Every frequency is divided by the factor. */
    record Linear(double factor) implements RopeScaling {}

    /**
     * Low frequencies are divided by the factor, high ones kept, those between blended (Llama 3.1).
     */
    record Llama3(
        double factor, double lowFreqFactor, double highFreqFactor, int originalMaxPositions)
        implements RopeScaling {}
  }

  private static final long MAX_CONFIG_BYTES = 16 << 20;
  private static final int MAX_DIMENSION = 1 << 24;
  private static final int MAX_LAYERS = 4096;

  public ModelConfig {
    eosIds = List.copyOf(eosIds);
  }

  /** Reads `config.json` of a model directory. */
  public static ModelConfig read(Path modelDir) {
    if (!Files.isDirectory(modelDir)) {
      throw new InputException("no such model directory: " + modelDir);
    }
    Path file = modelDir.resolve("config.json");
    if (!Files.isRegularFile(file)) {
      throw new InputException(
          modelDir
              + ": expected a Hugging Face model directory with config.json, found no such file");
    }
    return readFile(file);
  }

  /** Reads a config from a file of any name. */
  public static ModelConfig readFile(Path file) {
    return parse(Json.readObject(file, MAX_CONFIG_BYTES), file.toString());
  }

  /** Parses a config; `source` says in messages where it came from. */
  public static ModelConfig parse(ObjectNode json, String source) {
    return new Parser(json, source).parse();
  }

  /** Width of all query heads together. */
  public int queryWidth() {
    return heads * headDim;
  }

  /** Width of all key (or value) heads together. */
  public int kvWidth() {
    return kvHeads * headDim;
  }

  /**
   * The rotary frequencies, f32 [rotaryDim / 2]: theta^(-2i / rotaryDim), scaled. Computed in f32
   * step by step as transformers does (modeling_rope_utils), so that angles at large positions
   * agree.
   */
  public float[] inverseFrequencies() {
    float[] frequencies = new float[rotaryDim / 2];
    for (int i = 0; i < frequencies.length; i++) {
      float exponent = (float) (2 * i) / rotaryDim;
      float inverse = 1f / (float) Math.pow((float) ropeTheta, exponent);
      if (ropeScaling instanceof RopeScaling.Linear linear) {
        inverse /= (float) linear.factor();
      } else if (ropeScaling instanceof RopeScaling.Llama3 llama3) {
        inverse = llama3(inverse, llama3);
      }
      frequencies[i] = inverse;
    }
    return frequencies;
  }

  private static float llama3(float inverse, RopeScaling.Llama3 scaling) {
    double lowWavelength = scaling.originalMaxPositions() / scaling.lowFreqFactor();
    double highWavelength = scaling.originalMaxPositions() / scaling.highFreqFactor();
    float wavelength = (1f / inverse) * (float) (2 * Math.PI);
    if (wavelength < (float) highWavelength) {
      return inverse;
    }
    if (wavelength > (float) lowWavelength) {
      return inverse / (float) scaling.factor();
    }
    float smooth =
        ((1f / wavelength) * scaling.originalMaxPositions() - (float) scaling.lowFreqFactor())
            / (float) (scaling.highFreqFactor() - scaling.lowFreqFactor());
    return (1f - smooth) * inverse / (float) scaling.factor() + smooth * inverse;
  }

  /** Reads keys of one config, each checked. */
  private static final class Parser {
    private final ObjectNode json;
    private final String source;

    Parser(ObjectNode json, String source) {
      this.json = json;
      this.source = source;
    }

    ModelConfig parse() {
      String modelType = text("model_type", null);
      checkQuantization();
      for (Architecture architecture : Architecture.values()) {
        if (architecture.modelType().equals(modelType)) {
          return switch (architecture) {
            case LLAMA -> llama();
            case GPT_NEOX -> gptNeox();
          };
        }
      }
      throw wrong("model_type", "llama or gpt_neox", Text.quote(modelType));
    }

    private ModelConfig llama() {
      int hidden = integer("hidden_size", 0, 1, MAX_DIMENSION);
      int heads = integer("num_attention_heads", 0, 1, MAX_DIMENSION);
      int headDim = headDim(hidden, heads);
      String activation = text("hidden_act", "silu");
      boolean attentionBias = bool("attention_bias", false);
      if (integer("pretraining_tp", 1, 0, MAX_DIMENSION) > 1) {
        throw wrong("pretraining_tp", "1", json.get("pretraining_tp").asText());
      }
      return new ModelConfig(
          Architecture.LLAMA,
          integer("vocab_size", 0, 1, MAX_DIMENSION),
          hidden,
          integer("num_hidden_layers", 0, 1, MAX_LAYERS),
          heads,
          kvHeads(heads),
          headDim,
          integer("intermediate_size", 0, 1, MAX_DIMENSION),
          Norm.RMS_NORM,
          epsilon("rms_norm_eps", 1e-6),
          activation(activation),
          true,
          false,
          false,
          rotaryDim(headDim, ropeNumber("partial_rotary_factor", "partial_rotary_factor", 1.0)),
          theta("rope_theta"),
          ropeScaling(),
          attentionBias,
          bool("mlp_bias", false),
          bool("tie_word_embeddings", false),
          integer("max_position_embeddings", 2048, 1, Integer.MAX_VALUE),
          token("bos_token_id", 1),
          tokens("eos_token_id", 2),
          token("pad_token_id", null),
          number("initializer_range", 0.02, 0, 10),
          storedType());
    }

    private ModelConfig gptNeox() {
      int hidden = integer("hidden_size", 0, 1, MAX_DIMENSION);
      int heads = integer("num_attention_heads", 0, 1, MAX_DIMENSION);
      int headDim = headDim(hidden, heads);
      return new ModelConfig(
          Architecture.GPT_NEOX,
          integer("vocab_size", 0, 1, MAX_DIMENSION),
          hidden,
          integer("num_hidden_layers", 0, 1, MAX_LAYERS),
          heads,
          heads,
          headDim,
          integer("intermediate_size", 0, 1, MAX_DIMENSION),
          Norm.LAYER_NORM,
          epsilon("layer_norm_eps", 1e-5),
          activation(text("hidden_act", "gelu")),
          false,
          true,
          bool("use_parallel_residual", true),
          rotaryDim(headDim, ropeNumber("partial_rotary_factor", "rotary_pct", 0.25)),
          theta("rotary_emb_base"),
          ropeScaling(),
          bool("attention_bias", true),
          true,
          bool("tie_word_embeddings", false),
          integer("max_position_embeddings", 2048, 1, Integer.MAX_VALUE),
          token("bos_token_id", 0),
          tokens("eos_token_id", 2),
          token("pad_token_id", null),
          number("initializer_range", 0.02, 0, 10),
          storedType());
    }

    /**
     * Which tensors are in 4 or 8 bits, and how, is for the checkpoint to say; other ways of
     * quantizing are refused here.
     */
    private void checkQuantization() {
      JsonNode quantization = json.get("quantization_config");
      if (quantization == null || quantization.isNull()) {
        return;
      }
      String method = quantization.path("quant_method").asText("");
      boolean known = false;
      for (String key : List.of("load_in_4bit", "_load_in_4bit", "load_in_8bit", "_load_in_8bit")) {
        known |= quantization.path(key).asBoolean();
      }
      if (!method.equals("bitsandbytes") || !known) {
        throw wrong(
            "quantization_config", "none, or bitsandbytes in 4 or 8 bits", Text.quote(method));
      }
    }

    private int headDim(int hidden, int heads) {
      if (!json.hasNonNull("head_dim") && hidden % heads != 0) {
        throw wrong(
            "num_attention_heads", "a divisor of hidden_size " + hidden, String.valueOf(heads));
      }
      int headDim = integer("head_dim", hidden / heads, 1, 4096);
      if (headDim % 2 != 0) {
        throw wrong("head_dim", "an even number", String.valueOf(headDim));
      }
      if ((long) heads * headDim > MAX_DIMENSION) {
        throw wrong(
            "num_attention_heads",
            "heads of together at most " + MAX_DIMENSION + " elements",
            heads + " of " + headDim);
      }
      return headDim;
    }

    private int kvHeads(int heads) {
      int kvHeads = integer("num_key_value_heads", heads, 1, heads);
      if (heads % kvHeads != 0) {
        throw wrong(
            "num_key_value_heads",
            "a divisor of num_attention_heads " + heads,
            String.valueOf(kvHeads));
      }
      return kvHeads;
    }

    private int rotaryDim(int headDim, double fraction) {
      if (!(fraction > 0 && fraction <= 1)) {
        throw wrong(
            "rotary_pct or partial_rotary_factor",
            "a fraction above 0 and at most 1",
            String.valueOf(fraction));
      }
      int rotaryDim = (int) (headDim * fraction);
      if (rotaryDim < 2 || rotaryDim % 2 != 0) {
        throw wrong(
            "rotary_pct or partial_rotary_factor",
            "an even number of rotated elements of a head of " + headDim,
            String.valueOf(rotaryDim));
      }
      return rotaryDim;
    }

    private double theta(String legacyKey) {
      double theta = ropeNumber("rope_theta", legacyKey, 10000.0);
      if (!(theta > 1) || !Double.isFinite(theta)) {
        throw wrong("rope_theta", "a number above 1", String.valueOf(theta));
      }
      return theta;
    }

    /**
     * A number of transformers 5's `rope_parameters`, else the older key at the top, else
     * `otherwise`.
     */
    private double ropeNumber(String key, String legacyKey, double otherwise) {
      JsonNode parameters = json.get("rope_parameters");
      if (parameters != null && parameters.hasNonNull(key)) {
        return checkNumber(
            "rope_parameters." + key, parameters.get(key), -Double.MAX_VALUE, Double.MAX_VALUE);
      }
      return number(legacyKey, otherwise, -Double.MAX_VALUE, Double.MAX_VALUE);
    }

    private RopeScaling ropeScaling() {
      String key = "rope_parameters";
      JsonNode scaling = json.get(key);
      if (scaling == null || scaling.isNull()) {
        key = "rope_scaling";
        scaling = json.get(key);
      }
      if (scaling == null || scaling.isNull()) {
        return new RopeScaling.None();
      }
      if (!scaling.isObject()) {
        throw wrong(key, "an object or null", Json.kind(scaling));
      }
      JsonNode type =
          scaling.hasNonNull("rope_type") ? scaling.get("rope_type") : scaling.get("type");
      String name = type == null || type.isNull() ? "default" : type.asText();
      return switch (name) {
        case "default" -> new RopeScaling.None();
        case "linear" -> new RopeScaling.Linear(scalingNumber(key, scaling, "factor", 1e-6));
        case "llama3" -> {
          double low = scalingNumber(key, scaling, "low_freq_factor", 1e-6);
          double high = scalingNumber(key, scaling, "high_freq_factor", 1e-6);
          if (high <= low) {
            throw wrong(
                key + ".high_freq_factor",
                "a number above low_freq_factor " + low,
                String.valueOf(high));
          }
          yield new RopeScaling.Llama3(
              scalingNumber(key, scaling, "factor", 1e-6),
              low,
              high,
              (int) scalingNumber(key, scaling, "original_max_position_embeddings", 1));
        }
        default -> throw wrong(key + ".rope_type", "default, linear or llama3", Text.quote(name));
      };
    }

    private double scalingNumber(String key, JsonNode scaling, String field, double least) {
      JsonNode value = scaling.get(field);
      if (value == null || value.isNull()) {
        throw wrong(key + "." + field, "a number", "nothing");
      }
      return checkNumber(key + "." + field, value, least, Integer.MAX_VALUE);
    }

    private Activation activation(String name) {
      return switch (name) {
        case "silu", "swish" -> Activation.SILU;
        case "gelu" -> Activation.GELU_ERF;
        case "gelu_new", "gelu_pytorch_tanh", "gelu_fast" -> Activation.GELU_TANH;
        default ->
            throw wrong(
                "hidden_act",
                "silu, gelu, gelu_new, gelu_pytorch_tanh or gelu_fast",
                Text.quote(name));
      };
    }

    private @Nullable DType storedType() {
      String key = json.hasNonNull("dtype") ? "dtype" : "torch_dtype";
      if (!json.hasNonNull(key)) {
        return null;
      }
      String name = text(key, null);
      return switch (name.startsWith("torch.") ? name.substring(6) : name) {
        case "float32" -> DType.F32;
        case "bfloat16" -> DType.BF16;
        case "float16" -> DType.F16;
        default -> throw wrong(key, "float32, bfloat16 or float16", Text.quote(name));
      };
    }

    private String text(String key, @Nullable String otherwise) {
      JsonNode value = json.get(key);
      if (value == null || value.isNull()) {
        if (otherwise == null) {
          throw wrong(key, "a text", "nothing");
        }
        return otherwise;
      }
      if (!value.isTextual()) {
        throw wrong(key, "a text", Json.kind(value));
      }
      return value.textValue();
    }

    private boolean bool(String key, boolean otherwise) {
      JsonNode value = json.get(key);
      if (value == null || value.isNull()) {
        return otherwise;
      }
      if (!value.isBoolean()) {
        throw wrong(key, "true or false", Json.kind(value));
      }
      return value.booleanValue();
    }

    /**
     * An integer in a range; one that is missing is `otherwise`, or an error where that is below
     * `least`.
     */
    private int integer(String key, int otherwise, int least, int most) {
      JsonNode value = json.get(key);
      if (value == null || value.isNull()) {
        if (otherwise < least) {
          throw wrong(key, "an integer of " + least + " to " + most, "nothing");
        }
        return otherwise;
      }
      if (!value.isIntegralNumber()
          || !value.canConvertToInt()
          || value.intValue() < least
          || value.intValue() > most) {
        throw wrong(key, "an integer of " + least + " to " + most, Json.kind(value));
      }
      return value.intValue();
    }

    private float epsilon(String key, double otherwise) {
      return (float) number(key, otherwise, 0, 1);
    }

    private double number(String key, double otherwise, double least, double most) {
      JsonNode value = json.get(key);
      return value == null || value.isNull() ? otherwise : checkNumber(key, value, least, most);
    }

    private double checkNumber(String key, JsonNode value, double least, double most) {
      if (!value.isNumber() || !(value.doubleValue() >= least && value.doubleValue() <= most)) {
        throw wrong(
            key,
            least == -Double.MAX_VALUE ? "a finite number" : "a number of " + least + " to " + most,
            Json.kind(value));
      }
      return value.doubleValue();
    }

    private @Nullable Integer token(String key, @Nullable Integer otherwise) {
      JsonNode value = json.get(key);
      if (value == null) {
        return otherwise;
      }
      if (value.isNull()) {
        return null;
      }
      // Llama 3 chat models list several; the first is the one that was trained as the end.
      return tokenIds(key, value).get(0);
    }

    private List<Integer> tokens(String key, int otherwise) {
      JsonNode value = json.get(key);
      if (value == null) {
        return List.of(otherwise);
      }
      return value.isNull() ? List.of() : tokenIds(key, value);
    }

    private List<Integer> tokenIds(String key, JsonNode value) {
      List<Integer> ids = new ArrayList<>();
      for (JsonNode id : value.isArray() ? value : List.of(value)) {
        // -1 stands for "none" in some older configs.
        if (!id.isIntegralNumber() || !id.canConvertToInt() || id.intValue() < -1) {
          throw wrong(key, "a token id or a list of them", Json.kind(value));
        }
        ids.add(id.intValue());
      }
      if (ids.isEmpty()) {
        throw wrong(key, "a token id or a list of them", "an empty list");
      }
      return ids;
    }

    private InputException wrong(String key, String expected, String found) {
      return new InputException(
          source + ": " + key + ": expected " + expected + ", found " + found);
    }
  }
}
