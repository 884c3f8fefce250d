// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;

/**
 * What llama.cpp calls a model, its hyperparameters and its tensors, and in which order it wants
 * their rows.
 */
final class GgufArchitecture {

  /** Which row of a stored tensor is row {@code row} of the exported one. */
  interface RowOrder {
    long source(long row);
  }

  private final String name;
  private final ModelConfig config;
  private final Map<String, GgufValue> metadata = new LinkedHashMap<>();
  private final List<String> notes = new ArrayList<>();

  private GgufArchitecture(String name, ModelConfig config) {
    this.name = name;
    this.config = config;
  }

  /** The export of a model; an InputException names what llama.cpp has no place for. */
  static GgufArchitecture of(ModelConfig config) {
    String type = config.architecture().modelType();
    GgufArchitecture made =
        switch (type) {
          case "llama", "qwen2" -> new GgufArchitecture(type, config);
          case "gpt_neox" -> new GgufArchitecture("gptneox", config);
          default -> throw wrong("model_type", "llama, qwen2 or gpt_neox", Text.quote(type));
        };
    made.check();
    made.fill();
    return made;
  }

  private static InputException wrong(String key, String expected, String found) {
    return new InputException(
        "export: config.json: " + key + ": expected " + expected + ", found " + found);
  }

  private boolean neox() {
    return name.equals("gptneox");
  }

  private void check() {
    if (neox()) {
      if (config.activation() == ModelConfig.Activation.SILU) {
        throw wrong("hidden_act", "a GELU", "silu");
      }
      if (config.activation() == ModelConfig.Activation.GELU_ERF) {
        notes.add("llama.cpp computes GELU by its tanh approximation, this model by erf");
      }
      if (!config.attentionBias()) {
        throw wrong("attention_bias", "true, as llama.cpp's gptneox has it", "false");
      }
    } else {
      if (config.activation() != ModelConfig.Activation.SILU) {
        throw wrong("hidden_act", "silu", config.activation().name().toLowerCase(Locale.ROOT));
      }
      if (config.rotaryDim() != config.headDim()) {
        throw wrong("partial_rotary_factor", "1", config.rotaryDim() + " of " + config.headDim());
      }
    }
    ModelConfig.RopeScaling scaling = config.ropeScaling();
    boolean known =
        scaling instanceof ModelConfig.RopeScaling.None
            || scaling instanceof ModelConfig.RopeScaling.Linear
            || (scaling instanceof ModelConfig.RopeScaling.Llama3 && name.equals("llama"));
    if (!known) {
      throw wrong(
          "rope_scaling",
          name.equals("llama") ? "none, linear or llama3" : "none or linear",
          Text.quote(scaling));
    }
  }

  private void fill() {
    put("context_length", GgufValue.u32(config.maxPositions()));
    put("embedding_length", GgufValue.u32(config.hiddenSize()));
    put("block_count", GgufValue.u32(config.layers()));
    put("feed_forward_length", GgufValue.u32(config.ffnSize()));
    put("vocab_size", GgufValue.u32(config.vocabSize()));
    put("attention.head_count", GgufValue.u32(config.heads()));
    put("attention.head_count_kv", GgufValue.u32(config.kvHeads()));
    if (config.headDim() * config.heads() != config.hiddenSize()) {
      put("attention.key_length", GgufValue.u32(config.headDim()));
      put("attention.value_length", GgufValue.u32(config.headDim()));
    }
    put(
        config.norm() == ModelConfig.Norm.LAYER_NORM
            ? "attention.layer_norm_epsilon"
            : "attention.layer_norm_rms_epsilon",
        GgufValue.f32(config.normEps()));
    put("rope.dimension_count", GgufValue.u32(config.rotaryDim()));
    put("rope.freq_base", GgufValue.f32((float) config.ropeTheta()));
    if (config.ropeScaling() instanceof ModelConfig.RopeScaling.Linear linear) {
      put("rope.scaling.type", GgufValue.string("linear"));
      put("rope.scaling.factor", GgufValue.f32((float) linear.factor()));
    }
    if (neox()) {
      put("use_parallel_residual", GgufValue.bool(config.parallelResidual()));
    }
  }

  private void put(String key, GgufValue value) {
    metadata.put(name + "." + key, value);
  }

  /** {@code general.architecture}. */
  String name() {
    return name;
  }

  /** The hyperparameters' keys. */
  Map<String, GgufValue> metadata() {
    return metadata;
  }

  /** Lines about what llama.cpp does otherwise. */
  List<String> notes() {
    return notes;
  }

  /** Whether the head is written although it is the embedding; llama.cpp shares it for others. */
  boolean writesTiedHead() {
    return neox();
  }

  /** Name of a module's tensors, without ".weight" and ".bias". */
  String tensor(WeightNames.Module module) {
    String part =
        switch (module.part()) {
          case EMBEDDING -> "token_embd";
          case ATTENTION_NORM -> "attn_norm";
          case QUERY -> "attn_q";
          case KEY -> "attn_k";
          case VALUE -> "attn_v";
          case QUERY_KEY_VALUE -> "attn_qkv";
          case ATTENTION_OUTPUT -> "attn_output";
          case MLP_NORM -> "ffn_norm";
          case GATE -> "ffn_gate";
          case UP -> "ffn_up";
          case DOWN -> "ffn_down";
          case FINAL_NORM -> "output_norm";
          case HEAD -> "output";
          default ->
              throw new InputException(
                  "export: " + module.path() + " has no place in llama.cpp's " + name);
        };
    return module.part().perLayer() ? "blk." + module.layer() + "." + part : part;
  }

  /**
   * How the rows of a module's weight, and the elements of its bias, are reordered; null for not.
   *
   * <p>Llama: llama.cpp rotates pairs of neighbours where transformers rotates the halves of a
   * head, so within each head row 2j + t is row t * half + j. GPT-NeoX: llama.cpp wants all
   * queries, all keys and all values, transformers has [q | k | v] for each head.
   */
  @Nullable RowOrder rowOrder(WeightNames.Module module) {
    long width = config.headDim();
    if (name.equals("llama")
        && (module.part() == WeightNames.Part.QUERY || module.part() == WeightNames.Part.KEY)) {
      return row -> {
        long inHead = row % width;
        return row - inHead + inHead % 2 * (width / 2) + inHead / 2;
      };
    }
    if (module.part() == WeightNames.Part.QUERY_KEY_VALUE) {
      long all = width * config.heads();
      return row -> {
        long head = row % all / width;
        return head * 3 * width + row / all * width + row % width;
      };
    }
    return null;
  }

  /**
   * Divisors of the rotary frequencies, which llama.cpp reads as a tensor: [rotaryDim / 2], or null
   * for none. Llama 3.1 keeps high frequencies, divides low ones and blends those between. In f32
   * step by step, as llama.cpp's converter computes them.
   */
  float @Nullable [] ropeFactors() {
    if (!(config.ropeScaling() instanceof ModelConfig.RopeScaling.Llama3 scaling)) {
      return null;
    }
    int dim = config.rotaryDim();
    float[] factors = new float[dim / 2];
    float positions = scaling.originalMaxPositions();
    double lowWavelength = positions / scaling.lowFreqFactor();
    double highWavelength = positions / scaling.highFreqFactor();
    float band = (float) (scaling.highFreqFactor() - scaling.lowFreqFactor());
    for (int i = 0; i < factors.length; i++) {
      float frequency = 1f / (float) Math.pow((float) config.ropeTheta(), (float) (2 * i) / dim);
      float wavelength = (float) (2 * Math.PI) / frequency;
      if (wavelength < (float) highWavelength) {
        factors[i] = 1;
      } else if (wavelength > (float) lowWavelength) {
        factors[i] = (float) scaling.factor();
      } else {
        float smooth = (positions / wavelength - (float) scaling.lowFreqFactor()) / band;
        factors[i] = 1f / ((1f - smooth) / (float) scaling.factor() + smooth);
      }
    }
    return factors;
  }
}
