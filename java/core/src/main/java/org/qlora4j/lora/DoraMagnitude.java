// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.model.Parameter;

/**
 * What DoRA adds to a branch (Liu et al. 2024): a learned length of each row of the adapted weight.
 * A row of w + s * b * a is divided by its norm and multiplied by its magnitude; the norm is a
 * constant in the backward pass, as in section 4.3 of the paper and in PEFT.
 */
public final class DoraMagnitude {
  private final Parameter magnitude;
  private final DeviceTensor norm;
  private boolean stale = true;

  /**
   * @param magnitude m, f32 [out]
   * @param norm memory for the norms c, f32 [out]
   */
  public DoraMagnitude(Parameter magnitude, DeviceTensor norm) {
    this.magnitude = magnitude;
    this.norm = norm;
  }

  /** m. */
  public Parameter magnitude() {
    return magnitude;
  }

  /** c, the norms of the rows of w + s * b * a; what it holds is of no use while it is stale. */
  public DeviceTensor norm() {
    return norm;
  }

  /** Whether a or b changed since the norms were computed. */
  public boolean isStale() {
    return stale;
  }

  /** Tells that a or b changed. */
  public void invalidate() {
    stale = true;
  }

  /** Tells that {@link #norm} holds the norms of today's weights. */
  public void computed() {
    stale = false;
  }
}
