// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;

/**
 * Tensors of one block that stay from its first forward to its backward. The first forward writes
 * its results into them; a later one finds them there and does not compute them.
 */
final class KeptTensors {
  /** Nothing is kept: every tensor is computed, in memory of the pass. */
  static final KeptTensors NONE = new KeptTensors(Map.of(), false);

  /** A tensor that can be kept. */
  enum Slot {
    /** Rotated; the fused tensor of queries, keys and values for a fused projection. */
    QUERIES,
    KEYS,
    VALUES,
    MIXED,
    LSE,
    MIDDLE,
    GATE,
    UP
  }

  /**
   * A slot's size: [tokens, features] of the compute type, or f32 [features, tokens] for {@link
   * Slot#LSE}.
   */
  record Part(Slot slot, long features) {

    private DeviceTensor allocate(Pass pass, long tokens) {
      return slot == Slot.LSE
          ? pass.arena().allocate(DType.F32, features, tokens)
          : pass.activation(tokens, features);
    }

    private long bytes(DType compute, long tokens) {
      DType type = slot == Slot.LSE ? DType.F32 : compute;
      return LayerInputs.aligned(tokens * features * type.bytes());
    }
  }

  private final Map<Slot, DeviceTensor> tensors;
  private final boolean filled;

  private KeptTensors(Map<Slot, DeviceTensor> tensors, boolean filled) {
    this.tensors = tensors;
    this.filled = filled;
  }

  /** Uninitialised memory for the parts, in the pass's arena. */
  static KeptTensors allocate(Pass pass, long tokens, List<Part> parts) {
    if (parts.isEmpty()) {
      return NONE;
    }
    Map<Slot, DeviceTensor> tensors = new EnumMap<>(Slot.class);
    for (Part part : parts) {
      tensors.put(part.slot(), part.allocate(pass, tokens));
    }
    return new KeptTensors(tensors, false);
  }

  /** What {@link #allocate} takes. */
  static long bytes(List<Part> parts, DType compute, long tokens) {
    return parts.stream().mapToLong(part -> part.bytes(compute, tokens)).sum();
  }

  /** The same tensors, which now hold their values. */
  KeptTensors asFilled() {
    return new KeptTensors(tensors, true);
  }

  /** All of them, in the order of their slots. */
  List<DeviceTensor> tensors() {
    return List.copyOf(tensors.values());
  }

  /** Whether a tensor is there already, and need not be computed. */
  boolean has(Slot slot) {
    return filled && tensors.containsKey(slot);
  }

  /** The tensor of a slot that is kept, filled or to be filled; null for another. */
  @Nullable DeviceTensor find(Slot slot) {
    return tensors.get(slot);
  }

  /** The tensor of a slot; where it is not kept, memory of the pass. */
  DeviceTensor activation(Pass pass, Slot slot, long rows, long cols) {
    DeviceTensor kept = tensors.get(slot);
    return Objects.requireNonNullElseGet(kept, () -> pass.activation(rows, cols));
  }
}
