// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Arrays;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tensor.TensorArena;

/**
 * Several token sequences, one after the other, without padding.
 *
 * @param ids i32 [tokens]
 * @param positions i32 [tokens]: position of each token within its sequence
 * @param cuSeqlens [sequences + 1]: where each sequence starts, and the end
 * @param context one more than the largest position
 */
public record SequenceBatch(
    DeviceTensor ids, DeviceTensor positions, int[] cuSeqlens, int context) {

  /** Copies the batch to the device, into {@code arena}. */
  public static SequenceBatch of(TensorArena arena, int[] ids, int[] positions, int[] cuSeqlens) {
    if (ids.length != positions.length || cuSeqlens[cuSeqlens.length - 1] != ids.length) {
      throw new IllegalArgumentException(
          "ids, positions and the last cumulative length must agree: "
              + ids.length
              + ", "
              + positions.length
              + ", "
              + cuSeqlens[cuSeqlens.length - 1]);
    }
    DeviceTensor deviceIds = arena.allocate(DType.I32, ids.length);
    deviceIds.copyFrom(ids);
    DeviceTensor devicePositions = arena.allocate(DType.I32, ids.length);
    devicePositions.copyFrom(positions);
    int context = Arrays.stream(positions).max().orElse(-1) + 1;
    return new SequenceBatch(deviceIds, devicePositions, cuSeqlens, context);
  }

  /** One sequence whose first token is at {@code start}. */
  public static SequenceBatch single(TensorArena arena, int[] ids, int start) {
    int[] positions = new int[ids.length];
    for (int i = 0; i < ids.length; i++) {
      positions[i] = start + i;
    }
    return of(arena, ids, positions, new int[] {0, ids.length});
  }

  public long tokens() {
    return ids.elements();
  }
}
