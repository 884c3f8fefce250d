// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.tensor.TensorArena;

/**
 * What every layer needs to run: the kernels, memory for activations, the compute type, and where
 * in the training it is (which is all that dropout depends on).
 *
 * @param pack the kernels
 * @param arena memory of activations and saved tensors
 * @param compute element type of activations: BF16 or F32
 * @param loraCompute how the adapters' branch is rounded
 * @param dropoutSeed key of the dropout masks
 * @param step optimizer step, from 0
 * @param microBatch micro-batch within the step, from 0
 * @param training whether dropout is on
 */
public record Pass(
    KernelPack pack,
    TensorArena arena,
    DType compute,
    LoraCompute loraCompute,
    long dropoutSeed,
    int step,
    int microBatch,
    boolean training) {

  /** A pass without dropout: evaluation and generation. */
  public static Pass inference(
      KernelPack pack, TensorArena arena, DType compute, LoraCompute loraCompute) {
    return new Pass(pack, arena, compute, loraCompute, 0, 0, 0, false);
  }

  /** The same pass at another micro-batch of training. */
  public Pass at(int newStep, int newMicroBatch) {
    return new Pass(
        pack, arena, compute, loraCompute, dropoutSeed, newStep, newMicroBatch, training);
  }

  /** Uninitialised activation memory of the compute type, [rows, cols]. */
  DeviceTensor activation(long rows, long cols) {
    return arena.allocate(compute, rows, cols);
  }

  /** The dropout of linear number {@code linear} in this pass. */
  Dropout dropout(float probability, int linear) {
    return training && probability > 0
        ? new Dropout(probability, dropoutSeed, step, microBatch, linear, 0)
        : Dropout.NONE;
  }
}
