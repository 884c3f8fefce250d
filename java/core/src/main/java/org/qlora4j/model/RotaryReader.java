// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Reads a model's rotary embeddings from either form that configs have: {@code rope_parameters} of
 * transformers 5, or the older {@code rope_theta} (or {@code rotary_emb_base}) and {@code
 * rope_scaling}.
 */
final class RotaryReader {
  /** The kinds of scaling that most architectures can have. */
  static final Set<String> USUAL = Set.of("default", "linear", "llama3", "longrope");

  private final ConfigKeys keys;
  private final int headDim;
  private final int maxPositions;
  private final Set<String> kinds;

  /**
   * @param kinds the values of rope_type that the architecture can have
   */
  RotaryReader(ConfigKeys keys, int headDim, int maxPositions, Set<String> kinds) {
    this.keys = keys;
    this.headDim = headDim;
    this.maxPositions = maxPositions;
    this.kinds = kinds;
  }

  /**
   * The embedding that all layers share.
   *
   * @param legacyTheta older key of the base, which is 10000 where nothing says otherwise
   * @param legacyFraction older key of the share of a head that is rotated
   * @param fraction that share where nothing says otherwise
   */
  RotaryConfig shared(String legacyTheta, String legacyFraction, double fraction) {
    ConfigKeys parameters = keys.object("rope_parameters");
    String nested = parameters == null ? null : parameters.firstObject();
    if (parameters != null && nested != null) {
      throw parameters.wrong(nested, "no such key, as all layers share their values", "an object");
    }
    int dim = rotatedDim(value(parameters, "partial_rotary_factor", legacyFraction, fraction));
    ConfigKeys scaling = parameters != null ? parameters : keys.object("rope_scaling");
    return new RotaryConfig(dim, theta(parameters, legacyTheta, 10000), scaling(scaling, dim));
  }

  /**
   * The embedding of one kind of layer, for architectures where kinds differ (Gemma 3).
   *
   * @param layerType its key in rope_parameters
   * @param legacyTheta older key of the base
   * @param theta the base where nothing says otherwise
   * @param legacyScaling older key of the scaling, or null: not scaled
   */
  RotaryConfig ofLayerType(
      String layerType, String legacyTheta, double theta, @Nullable String legacyScaling) {
    ConfigKeys all = keys.object("rope_parameters");
    if (all != null && (all.has("rope_type") || all.has("rope_theta"))) {
      throw keys.wrong(
          "rope_parameters", "full_attention and sliding_attention", "one set for all layers");
    }
    ConfigKeys own = all == null ? null : all.object(layerType);
    ConfigKeys scaling =
        all != null ? own : legacyScaling == null ? null : keys.object(legacyScaling);
    return new RotaryConfig(headDim, theta(own, legacyTheta, theta), scaling(scaling, headDim));
  }

  private double theta(@Nullable ConfigKeys parameters, String legacyKey, double otherwise) {
    double theta = value(parameters, "rope_theta", legacyKey, otherwise);
    if (!(theta > 1) || !Double.isFinite(theta)) {
      throw keys.wrong(legacyKey, "a number above 1", String.valueOf(theta));
    }
    return theta;
  }

  private int rotatedDim(double fraction) {
    if (!(fraction > 0 && fraction <= 1)) {
      throw keys.wrong(
          "rotary_pct or partial_rotary_factor",
          "a fraction above 0 and at most 1",
          String.valueOf(fraction));
    }
    int dim = (int) (headDim * fraction);
    if (dim < 2 || dim % 2 != 0) {
      throw keys.wrong(
          "rotary_pct or partial_rotary_factor",
          "an even number of rotated elements of a head of " + headDim,
          String.valueOf(dim));
    }
    return dim;
  }

  private double value(
      @Nullable ConfigKeys parameters, String key, String legacyKey, double otherwise) {
    return parameters != null && parameters.hasValue(key)
        ? parameters.number(key, -Double.MAX_VALUE, Double.MAX_VALUE)
        : keys.number(legacyKey, otherwise, -Double.MAX_VALUE, Double.MAX_VALUE);
  }

  private RopeScaling scaling(@Nullable ConfigKeys scaling, int dim) {
    if (scaling == null) {
      return new RopeScaling.None();
    }
    String key = scaling.hasValue("rope_type") ? "rope_type" : "type";
    String name = scaling.text(key, "default");
    if (!kinds.contains(name)) {
      throw scaling.wrongText(
          "rope_type", String.join(", ", kinds.stream().sorted().toList()), name);
    }
    return switch (name) {
      case "default" -> new RopeScaling.None();
      case "linear" -> new RopeScaling.Linear(scaling.number("factor", 1e-6, Integer.MAX_VALUE));
      case "llama3" -> llama3(scaling);
      // "su" and "yarn" are what Phi-3's first configs called it.
      case "longrope", "su", "yarn" -> longRope(scaling, dim);
      default -> throw new AssertionError(name);
    };
  }

  private static RopeScaling llama3(ConfigKeys scaling) {
    double low = scaling.number("low_freq_factor", 1e-6, Integer.MAX_VALUE);
    double high = scaling.number("high_freq_factor", 1e-6, Integer.MAX_VALUE);
    if (high <= low) {
      throw scaling.wrong(
          "high_freq_factor", "a number above low_freq_factor " + low, String.valueOf(high));
    }
    return new RopeScaling.Llama3(
        scaling.number("factor", 1e-6, Integer.MAX_VALUE),
        low,
        high,
        (int) scaling.number("original_max_position_embeddings", 1, Integer.MAX_VALUE));
  }

  private RopeScaling longRope(ConfigKeys scaling, int dim) {
    List<Float> shortFactors = scaling.numbers("short_factor", dim / 2, 1e-6, 1e9);
    List<Float> longFactors = scaling.numbers("long_factor", dim / 2, 1e-6, 1e9);
    String original = "original_max_position_embeddings";
    int originalPositions =
        (scaling.hasValue(original) ? scaling : keys)
            .integer(original, maxPositions, 2, Integer.MAX_VALUE);
    double factor = scaling.number("factor", (double) maxPositions / originalPositions, 1e-6, 1e9);
    // As transformers has it: sqrt(1 + ln(factor) / ln(original)) where the config does not say.
    double attention =
        factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalPositions));
    return new RopeScaling.LongRope(
        shortFactors,
        longFactors,
        originalPositions,
        scaling.number("attention_factor", attention, 1e-6, 1e6));
  }
}
