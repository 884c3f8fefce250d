// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DeviceTensor;

/**
 * A module of a frozen model whose tensors an adapter may replace by trained ones of its own, and
 * put back.
 */
public interface TrainableModule {

  /** Module path, as PEFT sees it: "model.norm". */
  String name();

  /** Shape of the weight. */
  long[] weightShape();

  /** Length of the bias, or 0 without one. */
  long biasLength();

  /**
   * Copies the frozen weight.
   *
   * @param target f32, of {@link #weightShape}
   * @throws InputException when the weight is quantized
   */
  default void copyWeight(DeviceTensor target) {
    copyWeight(0, target);
  }

  /**
   * Copies rows of the frozen weight.
   *
   * @param first row to begin with
   * @param target f32, of {@link #weightShape} but for the number of rows
   * @throws InputException when the weight is quantized
   */
  void copyWeight(long first, DeviceTensor target);

  /**
   * Copies the frozen bias.
   *
   * @param target f32 [{@link #biasLength}]
   */
  void copyBias(DeviceTensor target);

  /**
   * Computes with these parameters instead, and trains them where they have gradients; null for the
   * frozen tensor.
   */
  void replace(@Nullable Parameter weight, @Nullable Parameter bias);
}
