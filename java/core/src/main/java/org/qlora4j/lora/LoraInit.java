// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * How an adapter begins ({@code init_lora_weights}).
 *
 * @param kind which rule
 * @param iterations power iterations of the randomized decomposition; 0 for an exact one
 */
public record LoraInit(Kind kind, int iterations) {

  /** The rules. */
  public enum Kind {
    /** a uniform in (-1/sqrt(in), 1/sqrt(in)), b zero ("true"). */
    KAIMING,
    /** Both uniform in the bounds of their own width, so that the model changes ("false"). */
    UNIFORM,
    /** a normal with a deviation of 1/rank, b zero. */
    GAUSSIAN,
    /** The largest singular values of the weight, which the base loses (Meng et al. 2024). */
    PISSA,
    /** The largest singular values of what quantization lost of the weight (Li et al. 2023). */
    LOFTQ
  }

  /** PEFT's default. */
  public static final LoraInit DEFAULT = new LoraInit(Kind.KAIMING, 0);

  private static final Pattern PISSA_NITER = Pattern.compile("pissa_niter_(\\d{1,3})");

  /** The rule that PEFT has under this name ("true", "pissa_niter_4"), or null. */
  public static @Nullable LoraInit parse(String text) {
    String name = text.toLowerCase(Locale.ROOT);
    Matcher niter = PISSA_NITER.matcher(name);
    if (niter.matches()) {
      int iterations = Integer.parseInt(niter.group(1));
      return iterations == 0 ? null : new LoraInit(Kind.PISSA, iterations);
    }
    return switch (name) {
      case "true" -> DEFAULT;
      case "false" -> new LoraInit(Kind.UNIFORM, 0);
      case "gaussian" -> new LoraInit(Kind.GAUSSIAN, 0);
      case "pissa" -> new LoraInit(Kind.PISSA, 0);
      case "loftq" -> new LoraInit(Kind.LOFTQ, 0);
      default -> null;
    };
  }

  /** Whether the beginning comes from the base's weights. */
  public boolean fromWeights() {
    return kind == Kind.PISSA || kind == Kind.LOFTQ;
  }

  /** PEFT's name. */
  @Override
  public String toString() {
    return switch (kind) {
      case KAIMING -> "true";
      case UNIFORM -> "false";
      case GAUSSIAN -> "gaussian";
      case PISSA -> iterations == 0 ? "pissa" : "pissa_niter_" + iterations;
      case LOFTQ -> "loftq";
    };
  }
}
