// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.util.List;
import org.qlora4j.model.WeightNames;
import org.qlora4j.model.WeightNames.Module;
import org.qlora4j.quant.QuantizationConfig;

/**
 * What training holds from its first step to its last, by method; activations, which depend on the
 * batch, come on top.
 *
 * @param weights the base
 * @param adapters low-rank matrices, f32
 * @param gradients of everything trained, f32
 * @param optimizerStates AdamW's two moments, f32
 */
record MemoryEstimate(long weights, long adapters, long gradients, long optimizerStates) {

  long total() {
    return weights + adapters + gradients + optimizerStates;
  }

  /** Every weight trained: f32 master weights, gradients and moments. */
  static MemoryEstimate full(WeightNames names) {
    long weights = names.parameters() * Float.BYTES;
    return new MemoryEstimate(weights, 0, weights, 2 * weights);
  }

  /** An adapter on the base in 16 bits. */
  static MemoryEstimate lora(WeightNames names, int rank, List<Module> targets) {
    return withAdapter(names.parameters() * Short.BYTES, rank, targets);
  }

  /** An adapter on a base whose blocks' linear weights are in 4 bits and all else in 16. */
  static MemoryEstimate qlora(
      WeightNames names, int rank, List<Module> targets, QuantizationConfig quantization) {
    long weights = 0;
    for (Module module : names.modules()) {
      long elements = module.rows() * module.cols();
      weights += module.part().linear() ? quantization.bytes(elements) : elements * Short.BYTES;
      weights += module.hasBias() ? module.rows() * Short.BYTES : 0;
    }
    return withAdapter(weights, rank, targets);
  }

  /** Elements of an adapter: rank rows of A and rank columns of B for each target. */
  static long adapterElements(int rank, List<Module> targets) {
    return targets.stream().mapToLong(module -> rank * (module.rows() + module.cols())).sum();
  }

  private static MemoryEstimate withAdapter(long weights, int rank, List<Module> targets) {
    long adapter = adapterElements(rank, targets) * Float.BYTES;
    return new MemoryEstimate(weights, adapter, adapter, 2 * adapter);
  }
}
