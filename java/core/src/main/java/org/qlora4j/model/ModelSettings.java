// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.math.BigDecimal;
import java.math.MathContext;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.qlora4j.model.ModelConfig.Activation;
import org.qlora4j.model.ModelConfig.LayerAttention;
import org.qlora4j.model.ModelConfig.Mlp;
import org.qlora4j.model.ModelConfig.Norm;
import org.qlora4j.model.ModelConfig.Qkv;

/**
 * What decides the values a model computes, by names and in texts that stay: checkpoints hold them,
 * and a resumed run must have the same.
 *
 * <p>What is as a plain Llama has it is not named. So a field that a later version adds, and that
 * changes nothing where it is not used, leaves earlier checkpoints usable. Not named either is what
 * only decides the training's tokens (context, special tokens), which are compared themselves, its
 * beginning (initializer range) or how weights are stored.
 */
public final class ModelSettings {
  private final SortedMap<String, String> settings = new TreeMap<>();

  private ModelSettings() {}

  /** The settings of a model, by name. */
  public static SortedMap<String, String> of(ModelConfig config) {
    ModelSettings s = new ModelSettings();
    s.put("model_type", config.architecture().modelType());
    s.put("vocab_size", config.vocabSize());
    s.put("hidden_size", config.hiddenSize());
    s.put("num_hidden_layers", config.layers());
    s.put("num_attention_heads", config.heads());
    s.put("num_key_value_heads", config.kvHeads());
    s.put("head_dim", config.headDim());
    s.put("intermediate_size", config.ffnSize());
    s.put("norm_eps", number(config.normEps()));
    s.put("attention_scale", number(config.attentionScale()));
    s.putUnless(Norm.RMS_NORM, "norm", config.norm());
    s.putUnless(false, "query_key_norm", config.queryKeyNorm());
    s.putUnless(false, "output_norms", config.outputNorms());
    s.putUnless(false, "parallel_residual", config.parallelResidual());
    s.putUnless(Activation.SILU, "activation", config.activation());
    s.putUnless(Mlp.GATED, "mlp", config.mlp());
    s.putUnless(Qkv.SEPARATE, "qkv", config.qkv());
    s.putUnless("0", "attention_softcap", number(config.attentionSoftcap()));
    s.putUnless(false, "qkv_bias", config.qkvBias());
    s.putUnless(false, "attention_output_bias", config.attentionOutputBias());
    s.putUnless(false, "mlp_bias", config.mlpBias());
    s.putUnless("1", "embedding_scale", number(config.embeddingScale()));
    s.putUnless("0", "logit_softcap", number(config.logitSoftcap()));
    s.putUnless(false, "tied_head", config.tiedHead());
    List<LayerAttention> layers = config.layerAttention();
    s.put("rope_theta", ofLayers(layers, layer -> number(layer.rotary().theta())));
    s.putUnless("0", "sliding_window", ofLayers(layers, layer -> text(layer.window())));
    s.putUnless(
        text(config.headDim()), "rope_dim", ofLayers(layers, layer -> text(layer.rotary().dim())));
    s.putUnless(
        "none", "rope_scaling", ofLayers(layers, layer -> scaling(layer.rotary().scaling())));
    return s.settings;
  }

  private void put(String name, Object value) {
    settings.put(name, text(value));
  }

  private void putUnless(Object usual, String name, Object value) {
    if (!value.equals(usual)) {
      put(name, value);
    }
  }

  private static String text(Object value) {
    return String.valueOf(value);
  }

  /** One text where all layers have the same, else one for each. */
  private static String ofLayers(
      List<LayerAttention> layers, Function<LayerAttention, String> value) {
    List<String> values = layers.stream().map(value).toList();
    return values.stream().distinct().count() == 1 ? values.get(0) : String.join(",", values);
  }

  private static String scaling(RopeScaling scaling) {
    if (scaling instanceof RopeScaling.Linear linear) {
      return "linear " + number(linear.factor());
    }
    if (scaling instanceof RopeScaling.Llama3 llama3) {
      return String.join(
          " ",
          "llama3",
          number(llama3.factor()),
          number(llama3.lowFreqFactor()),
          number(llama3.highFreqFactor()),
          text(llama3.originalMaxPositions()));
    }
    if (scaling instanceof RopeScaling.LongRope rope) {
      return String.join(
          " ",
          "longrope",
          text(rope.originalMaxPositions()),
          number(rope.attentionFactor()),
          numbers(rope.shortFactors()),
          numbers(rope.longFactors()));
    }
    if (scaling instanceof RopeScaling.None) {
      return "none";
    }
    throw new IllegalStateException("no name for " + scaling);
  }

  private static String numbers(List<Float> values) {
    return values.stream().map(ModelSettings::number).collect(Collectors.joining("/"));
  }

  /** The fewest digits that are this number, whatever Java runtime writes them. */
  private static String number(float value) {
    return shortest(new BigDecimal(value), 9, text -> Float.parseFloat(text) == value);
  }

  private static String number(double value) {
    return shortest(new BigDecimal(value), 17, text -> Double.parseDouble(text) == value);
  }

  private static String shortest(BigDecimal exact, int most, Function<String, Boolean> same) {
    String text = "";
    for (int digits = 1; digits <= most; digits++) {
      BigDecimal rounded = exact.round(new MathContext(digits)).stripTrailingZeros();
      text = rounded.toString();
      if (same.apply(text)) {
        return rounded.toPlainString().length() <= 12 ? rounded.toPlainString() : text;
      }
    }
    return text;
  }
}
