// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.LayerNorm;
import org.qlora4j.kernels.RmsNorm;
import org.qlora4j.tensor.TorchBridge;

/** RMSNorm or LayerNorm over the features of every token. */
public final class NormLayer implements TrainableModule {

  private final ModelConfig.Norm kind;
  private final float eps;
  private final String name;
  private final DeviceTensor frozenWeight;
  private final @Nullable DeviceTensor frozenBias;
  private DeviceTensor weight;
  private @Nullable DeviceTensor bias;
  private @Nullable Parameter weightParameter;
  private @Nullable Parameter biasParameter;

  /** A norm that no adapter asks for by name. */
  public NormLayer(
      ModelConfig.Norm kind, float eps, DeviceTensor weight, @Nullable DeviceTensor bias) {
    this("norm", kind, eps, weight, bias);
  }

  /**
   * @param name module path, as PEFT sees it
   * @param weight f32 or bf16 [features]
   * @param bias of LayerNorm, or null
   */
  public NormLayer(
      String name,
      ModelConfig.Norm kind,
      float eps,
      DeviceTensor weight,
      @Nullable DeviceTensor bias) {
    this.name = name;
    this.kind = kind;
    this.eps = eps;
    this.frozenWeight = weight;
    this.frozenBias = bias;
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

  void train(@Nullable Parameter newWeight, @Nullable Parameter newBias) {
    this.weightParameter = newWeight;
    this.biasParameter = newBias;
  }

  @Override
  public String name() {
    return name;
  }

  @Override
  public long[] weightShape() {
    return frozenWeight.shape();
  }

  @Override
  public long biasLength() {
    return frozenBias == null ? 0 : frozenBias.elements();
  }

  @Override
  public void copyWeight(long first, DeviceTensor target) {
    TorchBridge.copy(frozenWeight.rows(first, target.elements()), target);
  }

  @Override
  public void copyBias(DeviceTensor target) {
    TorchBridge.copy(Objects.requireNonNull(frozenBias), target);
  }

  @Override
  public void replace(@Nullable Parameter newWeight, @Nullable Parameter newBias) {
    weight = newWeight == null ? frozenWeight : newWeight.value();
    bias = newBias == null ? frozenBias : newBias.value();
    train(newWeight, newBias);
  }

  /** Whether something is trained here. */
  boolean isTrained() {
    return weightParameter != null || biasParameter != null;
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
        LayerNorm.forward(pass.pack(), u, null, beside(pass, bias), bias, eps, null, y, mean, rstd);
        return new Saved(u, mean, rstd);
      }
    }
    throw new AssertionError(kind);
  }

  /** The weight in the type of the bias: one that is trained beside a frozen weight is f32. */
  private DeviceTensor beside(Pass pass, @Nullable DeviceTensor other) {
    if (other == null || other.dtype() == weight.dtype()) {
      return weight;
    }
    DeviceTensor widened = pass.arena().allocate(other.dtype(), weight.elements());
    TorchBridge.copy(weight, widened);
    return widened;
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
