// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.LayerNorm;
import org.qlora4j.kernels.RmsNorm;

/** RMSNorm or LayerNorm over the features of every token. */
public final class NormLayer {

  private final ModelConfig.Norm kind;
  private final float eps;
  private final DeviceTensor weight;
  private final @Nullable DeviceTensor bias;
  private @Nullable Parameter weightParameter;
  private @Nullable Parameter biasParameter;

  /**
   * @param weight f32 or bf16 [features]
   * @param bias of LayerNorm, or null
   */
  public NormLayer(
      ModelConfig.Norm kind, float eps, DeviceTensor weight, @Nullable DeviceTensor bias) {
    this.kind = kind;
    this.eps = eps;
    this.weight = weight;
    this.bias = bias;
  }

  /**
   * What the backward needs of a forward.
   *
   * @param u input [m, n], borrowed
   * @param mean f32 [m], LayerNorm only
   * @param rstd f32 [m]
   */
  record Saved(DeviceTensor u, @Nullable DeviceTensor mean, DeviceTensor rstd) {}

  void train(Parameter newWeight, @Nullable Parameter newBias) {
    this.weightParameter = newWeight;
    this.biasParameter = newBias;
  }

  Saved forward(Pass pass, DeviceTensor u, DeviceTensor y) {
    DeviceTensor rstd = pass.arena().allocate(DType.F32, u.rows());
    switch (kind) {
      case RMS_NORM, RMS_NORM_UNIT_OFFSET -> {
        RmsNorm.forward(pass.pack(), u, null, weight, eps, unitOffset(), null, y, rstd);
        return new Saved(u, null, rstd);
      }
      case LAYER_NORM -> {
        DeviceTensor mean = pass.arena().allocate(DType.F32, u.rows());
        LayerNorm.forward(pass.pack(), u, null, weight, bias, eps, null, y, mean, rstd);
        return new Saved(u, mean, rstd);
      }
    }
    throw new AssertionError(kind);
  }

  /** dx = gradient of u, plus {@code dresidual} where given; dx may be dresidual. */
  void backward(
      Pass pass, Saved saved, DeviceTensor dy, @Nullable DeviceTensor dresidual, DeviceTensor dx) {
    DeviceTensor dweight = weightParameter == null ? null : weightParameter.gradient();
    switch (kind) {
      case RMS_NORM, RMS_NORM_UNIT_OFFSET ->
          RmsNorm.backward(
              pass.pack(),
              saved.u(),
              weight,
              unitOffset(),
              saved.rstd(),
              dy,
              dresidual,
              dx,
              dweight);
      case LAYER_NORM ->
          LayerNorm.backward(
              pass.pack(),
              saved.u(),
              weight,
              Objects.requireNonNull(saved.mean()),
              saved.rstd(),
              dy,
              dresidual,
              dx,
              dweight,
              biasParameter == null ? null : biasParameter.gradient());
    }
  }

  private boolean unitOffset() {
    return kind == ModelConfig.Norm.RMS_NORM_UNIT_OFFSET;
  }
}
