// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Configuration of low-rank adapters, with PEFT's meaning.
 *
 * @param rank r
 * @param alpha lora_alpha
 * @param dropout probability with which elements of a branch's input are dropped while training,
 *     [0, 1)
 * @param rsLora scale by alpha / sqrt(r) instead of alpha / r (use_rslora)
 * @param targets the linear layers that get an adapter
 * @param rankPattern other ranks for the layers whose path ends as the key, a regular expression,
 *     says; the first key that fits counts
 * @param alphaPattern other alphas, in the same way
 * @param dora whether a magnitude is learned for each row (use_dora)
 * @param bias which of the base's biases are trained with the adapter
 * @param modulesToSave ends of paths of modules that are trained in full, as copies of the
 *     adapter's own
 * @param init how a and b begin
 */
public record LoraConfig(
    int rank,
    double alpha,
    double dropout,
    boolean rsLora,
    TargetModules targets,
    Map<String, Integer> rankPattern,
    Map<String, Double> alphaPattern,
    boolean dora,
    Bias bias,
    List<String> modulesToSave,
    LoraInit init) {

  /** Which biases are trained: none, every one of the model, or those of the adapted layers. */
  public enum Bias {
    NONE,
    ALL,
    LORA_ONLY;

    /** Whether the bias of a module is trained, which may be adapted. */
    boolean trains(boolean adapted) {
      return this == ALL || (this == LORA_ONLY && adapted);
    }
  }

  public LoraConfig {
    checkRank(rank);
    rankPattern.forEach(
        (key, value) -> {
          ModulePattern.check("rank_pattern", key);
          checkRank(value);
        });
    checkAlpha(alpha);
    alphaPattern.forEach(
        (key, value) -> {
          ModulePattern.check("alpha_pattern", key);
          checkAlpha(value);
        });
    if (!(dropout >= 0 && dropout < 1)) {
      throw new IllegalArgumentException(
          "lora_dropout must be at least 0 and less than 1, found " + dropout);
    }
    rankPattern = Collections.unmodifiableMap(new LinkedHashMap<>(rankPattern));
    alphaPattern = Collections.unmodifiableMap(new LinkedHashMap<>(alphaPattern));
    modulesToSave = List.copyOf(modulesToSave);
    modulesToSave.forEach(name -> ModulePattern.check("modules_to_save", name));
  }

  /** A plain adapter of the layers with these names; none for every linear layer. */
  public LoraConfig(int rank, double alpha, double dropout, boolean rsLora, List<String> targets) {
    this(rank, alpha, dropout, rsLora, TargetModules.of(targets));
  }

  /** A plain adapter. */
  public LoraConfig(int rank, double alpha, double dropout, boolean rsLora, TargetModules targets) {
    this(
        rank,
        alpha,
        dropout,
        rsLora,
        targets,
        Map.of(),
        Map.of(),
        false,
        Bias.NONE,
        List.of(),
        LoraInit.DEFAULT);
  }

  private static void checkRank(int rank) {
    if (rank < 1) {
      throw new IllegalArgumentException("LoRA rank must be at least 1, found " + rank);
    }
  }

  private static void checkAlpha(double alpha) {
    if (!(alpha > 0)) {
      throw new IllegalArgumentException("lora_alpha must be positive, found " + alpha);
    }
  }

  /** The same for other layers. */
  public LoraConfig withTargets(TargetModules other) {
    return new LoraConfig(
        rank,
        alpha,
        dropout,
        rsLora,
        other,
        rankPattern,
        alphaPattern,
        dora,
        bias,
        modulesToSave,
        init);
  }

  /** The same with another dropout. */
  public LoraConfig withDropout(double other) {
    return new LoraConfig(
        rank,
        alpha,
        other,
        rsLora,
        targets,
        rankPattern,
        alphaPattern,
        dora,
        bias,
        modulesToSave,
        init);
  }

  /**
   * The same adapter as differences of two: twice the rank at the same scale, on the base as it was
   * before its weights were decomposed.
   */
  LoraConfig doubled() {
    double factor = rsLora ? Math.sqrt(2) : 2;
    Map<String, Integer> ranks = new LinkedHashMap<>();
    rankPattern.forEach((key, value) -> ranks.put(key, 2 * value));
    Map<String, Double> alphas = new LinkedHashMap<>();
    alphaPattern.forEach((key, value) -> alphas.put(key, factor * value));
    return new LoraConfig(
        2 * rank,
        factor * alpha,
        dropout,
        rsLora,
        targets,
        ranks,
        alphas,
        dora,
        bias,
        modulesToSave,
        LoraInit.DEFAULT);
  }

  /** s of docs/lora.md where no pattern says otherwise: alpha / r, or alpha / sqrt(r). */
  public float scaling() {
    return scaling(alpha, rank);
  }

  /** s of a layer. */
  public float scaling(String modulePath) {
    return scaling(alpha(modulePath), rank(modulePath));
  }

  private float scaling(double a, int r) {
    return (float) (a / (rsLora ? Math.sqrt(r) : r));
  }

  /** r of a layer. */
  public int rank(String modulePath) {
    return byPattern(rankPattern, modulePath, rank);
  }

  /** alpha of a layer. */
  public double alpha(String modulePath) {
    return byPattern(alphaPattern, modulePath, alpha);
  }

  private static <T> T byPattern(Map<String, T> patterns, String modulePath, T otherwise) {
    for (Map.Entry<String, T> entry : patterns.entrySet()) {
      if (ModulePattern.end(entry.getKey()).matches(modulePath)) {
        return entry.getValue();
      }
    }
    return otherwise;
  }

  /** Whether the linear layer with this module path gets an adapter. */
  public boolean targets(String modulePath) {
    return targets.matches(modulePath)
        && modulesToSave.stream().noneMatch(m -> ModulePattern.within(m).matches(modulePath));
  }

  /** Whether the module with this path is trained in full. */
  public boolean saves(String modulePath) {
    return modulesToSave.stream().anyMatch(modulePath::endsWith);
  }
}
