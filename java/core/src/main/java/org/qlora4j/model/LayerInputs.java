// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.List;
import org.qlora4j.kernels.DeviceTensor;

/**
 * Keeps the inputs of groups of blocks, and whatever else is kept of them, outside of the
 * activations' memory from the forward pass to the backward pass of a micro-batch: groups are kept
 * in order and come back in the opposite one.
 */
public interface LayerInputs {
  /** Of the tensors of a group, in bytes. */
  long ALIGNMENT = 64;

  /** Bytes that a tensor of {@code bytes} takes with its alignment, at least one unit. */
  static long aligned(long bytes) {
    return Math.max(1, (bytes + ALIGNMENT - 1) / ALIGNMENT) * ALIGNMENT;
  }

  /**
   * Begins a micro-batch.
   *
   * @param groups how many will be kept
   * @param bytes of the tensors of the largest, each {@link #aligned}
   */
  void begin(int groups, long bytes);

  /** Takes a copy of a group's tensors, which may be overwritten once this returns. */
  void keep(int group, List<DeviceTensor> tensors);

  /** Copies a group's tensors back into tensors of the same shapes, in the same order. */
  void restore(int group, List<DeviceTensor> tensors);
}
