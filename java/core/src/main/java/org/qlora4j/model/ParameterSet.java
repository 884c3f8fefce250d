// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;

/**
 * The trained tensors of a model in a fixed order, with their gradients in one allocation.
 * Everything that walks over all of them (gradient norm, optimizer, checkpoints) walks in this
 * order.
 */
public final class ParameterSet implements AutoCloseable {

  private final KernelPack pack;
  private final List<Parameter> parameters = new ArrayList<>();
  private final List<DeviceBuffer> values = new ArrayList<>();
  private @Nullable DeviceBuffer gradients;

  public ParameterSet(KernelPack pack) {
    this.pack = pack;
  }

  /** Adds a parameter with uninitialised f32 memory. */
  public Parameter add(String name, long... shape) {
    if (gradients != null) {
      throw new IllegalStateException(
          "parameter " + name + " added after the gradients were allocated");
    }
    long elements = 1;
    for (long extent : shape) {
      elements = Math.multiplyExact(elements, extent);
    }
    DeviceBuffer memory = DeviceBuffer.allocate(pack, Math.multiplyExact(elements, Float.BYTES));
    values.add(memory);
    Parameter parameter = new Parameter(name, DeviceTensor.of(memory, 0, DType.F32, shape));
    parameters.add(parameter);
    return parameter;
  }

  /** All parameters, in the order they were added. */
  public List<Parameter> parameters() {
    return Collections.unmodifiableList(parameters);
  }

  /** Number of trained elements. */
  public long elements() {
    return parameters.stream().mapToLong(p -> p.value().elements()).sum();
  }

  /** Gives every parameter a zeroed gradient. Does nothing the second time. */
  public void allocateGradients() {
    if (gradients != null) {
      return;
    }
    DeviceBuffer memory = DeviceBuffer.allocate(pack, Math.max(1, elements()) * Float.BYTES);
    gradients = memory;
    long offset = 0;
    for (Parameter parameter : parameters) {
      parameter.setGradient(DeviceTensor.of(memory, offset, DType.F32, parameter.value().shape()));
      offset += parameter.value().bytes();
    }
    memory.fill(0);
  }

  /** Sets every gradient to zero. */
  public void zeroGradients() {
    if (gradients == null) {
      throw new IllegalStateException("no gradients were allocated");
    }
    gradients.fill(0);
  }

  @Override
  public void close() {
    values.forEach(DeviceBuffer::close);
    values.clear();
    if (gradients != null) {
      gradients.close();
      gradients = null;
    }
  }
}
