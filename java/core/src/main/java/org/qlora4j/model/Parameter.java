// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DeviceTensor;

/** A trained tensor: f32 master value and, while training, its f32 gradient of the same shape. */
public final class Parameter {

  private final String name;
  private final DeviceTensor value;
  private @Nullable DeviceTensor gradient;

  Parameter(String name, DeviceTensor value) {
    this.name = name;
    this.value = value;
  }

  /** Checkpoint name of the tensor. */
  public String name() {
    return name;
  }

  /** f32, contiguous. */
  public DeviceTensor value() {
    return value;
  }

  /** f32, contiguous; exists once {@link ParameterSet#allocateGradients} was called. */
  public DeviceTensor gradient() {
    if (gradient == null) {
      throw new IllegalStateException(
          "parameter " + name + " has no gradient: the set was not prepared for training");
    }
    return gradient;
  }

  void setGradient(DeviceTensor gradient) {
    this.gradient = gradient;
  }
}
