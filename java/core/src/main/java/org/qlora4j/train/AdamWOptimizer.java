// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.GradientNorm;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;

/**
 * AdamW with decoupled weight decay over all parameters of a set, in PyTorch's order of operations,
 * with the gradients' global norm clipped first: scale = min(1, maxNorm / (norm + 1e-6)). States
 * are f32.
 */
public final class AdamWOptimizer implements AutoCloseable {

  /** Settings; weight decay applies to every trained tensor. */
  public record Settings(
      double beta1, double beta2, double epsilon, double weightDecay, double maxGradNorm) {}

  private final KernelPack pack;
  private final Settings settings;
  private final DeviceBuffer memory;
  private final List<DeviceTensor> firstMoments = new ArrayList<>();
  private final List<DeviceTensor> secondMoments = new ArrayList<>();
  private final List<DeviceTensor> gradients = new ArrayList<>();
  private final List<AdamW.Slot> slots = new ArrayList<>();
  private long steps = 0;

  public AdamWOptimizer(KernelPack pack, ParameterSet parameters, Settings settings) {
    this.pack = pack;
    this.settings = settings;
    long elements = parameters.elements();
    this.memory = DeviceBuffer.allocate(pack, Math.max(1, 2 * elements) * Float.BYTES);
    memory.fill(0);
    long offset = 0;
    for (Parameter parameter : parameters.parameters()) {
      long[] shape = parameter.value().shape();
      DeviceTensor first = DeviceTensor.of(memory, offset, DType.F32, shape);
      DeviceTensor second =
          DeviceTensor.of(memory, offset + elements * Float.BYTES, DType.F32, shape);
      offset += parameter.value().bytes();
      firstMoments.add(first);
      secondMoments.add(second);
      gradients.add(parameter.gradient());
      slots.add(
          new AdamW.Slot(
              parameter.value(),
              parameter.gradient(),
              first,
              second,
              (float) settings.weightDecay()));
    }
  }

  /**
   * Clips and applies the gradients; returns their norm before clipping. A norm that is not finite
   * changes nothing.
   */
  public double step(double learningRate) {
    double norm = GradientNorm.compute(pack, gradients);
    if (!Double.isFinite(norm)) {
      return norm;
    }
    double scale =
        settings.maxGradNorm() > 0 ? Math.min(1, settings.maxGradNorm() / (norm + 1e-6)) : 1;
    steps++;
    AdamW.step(
        pack,
        new AdamW.Options(learningRate, settings.beta1(), settings.beta2(), settings.epsilon()),
        steps,
        (float) scale,
        slots);
    return norm;
  }

  /** Steps taken. */
  public long steps() {
    return steps;
  }

  /** Restores the number of steps taken, after the moments were restored. */
  void setSteps(long steps) {
    this.steps = steps;
  }

  /** f32 first moments, in the order of the parameters. */
  List<DeviceTensor> firstMoments() {
    return firstMoments;
  }

  /** f32 second moments, in the order of the parameters. */
  List<DeviceTensor> secondMoments() {
    return secondMoments;
  }

  /** Bytes of the states. */
  public long stateBytes() {
    return memory.bytes();
  }

  @Override
  public void close() {
    memory.close();
  }
}
