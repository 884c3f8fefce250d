// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Rotary;

/**
 * Rotates queries and keys by their positions. Where a model has two sets of frequencies, the
 * longest sequence of the batch chooses, for all of the batch, as in transformers.
 */
final class RotaryEmbedding implements AutoCloseable {
  private final RotaryConfig config;
  private final DeviceBuffer memory;
  private final DeviceTensor shortFrequencies;
  private final DeviceTensor longFrequencies;

  RotaryEmbedding(KernelPack pack, RotaryConfig config) {
    this.config = config;
    int count = config.dim() / 2;
    boolean two = config.shortContext() < Integer.MAX_VALUE;
    this.memory = DeviceBuffer.allocate(pack, (two ? 2L : 1L) * count * Float.BYTES);
    this.shortFrequencies = DeviceTensor.of(memory, 0, DType.F32, count);
    shortFrequencies.copyFrom(config.inverseFrequencies(1));
    if (two) {
      this.longFrequencies = DeviceTensor.of(memory, (long) count * Float.BYTES, DType.F32, count);
      longFrequencies.copyFrom(config.inverseFrequencies(Integer.MAX_VALUE));
    } else {
      this.longFrequencies = shortFrequencies;
    }
  }

  /**
   * Rotates in place.
   *
   * @param inverse back, and by the same factor, which is the gradient
   */
  void apply(Pass pass, SequenceBatch batch, HeadView x, int heads, boolean inverse) {
    Rotary.apply(
        pass.pack(),
        x,
        heads,
        config.dim(),
        batch.positions(),
        batch.context() > config.shortContext() ? longFrequencies : shortFrequencies,
        config.attentionFactor(),
        inverse);
  }

  @Override
  public void close() {
    memory.close();
  }
}
