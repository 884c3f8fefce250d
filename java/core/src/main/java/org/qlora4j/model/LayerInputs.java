// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.qlora4j.kernels.DeviceTensor;

/**
 * Keeps the inputs of groups of blocks outside of the activations' memory from the forward pass to
 * the backward pass of a micro-batch: groups are kept in order and come back in the opposite one.
 */
public interface LayerInputs {

  /**
   * Begins a micro-batch.
   *
   * @param groups how many inputs will be kept
   * @param bytes of each
   */
  void begin(int groups, long bytes);

  /** Takes a copy of a group's input; {@code x} may be overwritten once this returns. */
  void keep(int group, DeviceTensor x);

  /** Copies a group's input back. */
  void restore(int group, DeviceTensor x);
}
