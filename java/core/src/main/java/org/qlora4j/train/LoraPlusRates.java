// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.function.ToDoubleFunction;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.WeightNames;

/**
 * Learning rates of LoRA+ (Hayou, Ghosh, Yu 2024): that of b, and as in PEFT those of vectors, is a
 * multiple of the common one; a trained embedding can have its own.
 */
final class LoraPlusRates implements ToDoubleFunction<Parameter> {
  private final double ratio;
  private final double embedding;
  private final String embeddingName;

  LoraPlusRates(TrainConfig.Optimizer optimizer, WeightNames.Module embedding) {
    this.ratio = optimizer.loraPlusRatio();
    this.embedding =
        optimizer.embeddingRate() == 0 || optimizer.learningRate() == 0
            ? 1
            : optimizer.embeddingRate() / optimizer.learningRate();
    this.embeddingName = PeftAdapterFile.PREFIX + embedding.weight();
  }

  @Override
  public double applyAsDouble(Parameter parameter) {
    String name = parameter.name();
    if (!name.startsWith(PeftAdapterFile.PREFIX)) {
      return 1; // a weight of method full
    }
    if (name.equals(embeddingName)) {
      return embedding;
    }
    return name.endsWith(".lora_B.weight") || parameter.value().shape().length == 1 ? ratio : 1;
  }
}
