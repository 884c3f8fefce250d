// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.util.List;

/**
 * Configuration of low-rank adapters, with PEFT's meaning.
 *
 * @param rank r
 * @param alpha lora_alpha
 * @param dropout probability with which elements of a branch's input are dropped while training,
 *     [0, 1)
 * @param rsLora scale by alpha / sqrt(r) instead of alpha / r (use_rslora)
 * @param targets names of the linear layers that get an adapter: the last part of a module path
 *     ("q_proj"), or a longer suffix of it; empty: every linear layer but the output head
 *     ("all-linear")
 */
public record LoraConfig(
    int rank, double alpha, double dropout, boolean rsLora, List<String> targets) {

  public LoraConfig {
    if (rank < 1) {
      throw new IllegalArgumentException("LoRA rank must be at least 1, found " + rank);
    }
    if (!(alpha > 0)) {
      throw new IllegalArgumentException("lora_alpha must be positive, found " + alpha);
    }
    if (!(dropout >= 0 && dropout < 1)) {
      throw new IllegalArgumentException(
          "lora_dropout must be at least 0 and less than 1, found " + dropout);
    }
    targets = List.copyOf(targets);
  }

  /** s of docs/lora.md: alpha / r, or alpha / sqrt(r). */
  public float scaling() {
    return (float) (alpha / (rsLora ? Math.sqrt(rank) : rank));
  }

  /** Whether the linear layer with this module path gets an adapter. */
  public boolean targets(String modulePath) {
    if (targets.isEmpty()) {
      return true;
    }
    return targets.stream().anyMatch(t -> modulePath.equals(t) || modulePath.endsWith("." + t));
  }
}
