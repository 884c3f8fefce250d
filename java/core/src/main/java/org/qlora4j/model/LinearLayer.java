// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.Lora;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.lora.LoraLayer;
import org.qlora4j.tensor.TorchBridge;

/**
 * A linear layer, {@code y = x * w^T + bias}, over a dense or a quantized weight, with or without a
 * LoRA branch (docs/lora.md).
 *
 * <p>The weight is frozen unless {@link #train} or {@link #replace} gave it a parameter; the
 * branch's tensors are trained where there is one.
 */
public final class LinearLayer implements TrainableModule {

  private final String name;
  private final int number;
  private final Weight frozenWeight;
  private final @Nullable DeviceTensor frozenBias;
  private Weight weight;
  private @Nullable DeviceTensor bias;
  private @Nullable LoraLayer lora;
  private @Nullable Parameter weightParameter;
  private @Nullable Parameter biasParameter;
  private float outlierThreshold;

  /**
   * @param name module path, as PEFT sees it: "model.layers.0.self_attn.q_proj"
   * @param number number of the linear within the model, which its dropout masks depend on
   * @param weight [out, in]
   * @param bias f32 or bf16 [out], or null
   */
  public LinearLayer(String name, int number, Weight weight, @Nullable DeviceTensor bias) {
    this.name = name;
    this.number = number;
    this.frozenWeight = weight;
    this.frozenBias = bias;
    this.weight = weight;
    this.bias = bias;
  }

  /**
   * What the backward needs of a forward.
   *
   * @param x input [m, in], borrowed from the layer before
   * @param xa f32 [m, rank], or null without a branch
   * @param product of a DoRA: what its magnitudes scale, [m, out]; else null
   */
  record Saved(DeviceTensor x, @Nullable DeviceTensor xa, @Nullable DeviceTensor product) {}

  @Override
  public String name() {
    return name;
  }

  int number() {
    return number;
  }

  @Nullable DeviceTensor bias() {
    return bias;
  }

  public Weight weight() {
    return weight;
  }

  public long in() {
    return weight.cols();
  }

  public long out() {
    return weight.rows();
  }

  /** The adapter, or null. */
  public @Nullable LoraLayer lora() {
    return lora;
  }

  /** Attaches an adapter, or takes it off with null. */
  public void setLora(@Nullable LoraLayer lora) {
    if (lora != null && (lora.a().value().cols() != in() || lora.b().value().rows() != out())) {
      throw new IllegalArgumentException(
          name
              + " is ["
              + out()
              + ", "
              + in()
              + "], the adapter is ["
              + lora.b().value().rows()
              + ", "
              + lora.a().value().cols()
              + "]");
    }
    this.lora = lora;
  }

  /**
   * Sets the magnitudes of a DoRA of this layer to the norms of its rows, so that it begins as the
   * layer it adapts.
   *
   * @param compute in which the model computes
   */
  public void initialiseMagnitudes(LoraLayer branch, DType compute) {
    DoraBranch.initialise(frozenWeight, branch, compute);
  }

  /**
   * Multiplies columns of x with a magnitude of at least {@code threshold} in 16 bits; see {@link
   * MixedInt8}. Of an INT8 weight with bf16 activations; 0 for none.
   */
  void setOutlierThreshold(float threshold) {
    this.outlierThreshold = threshold;
  }

  /**
   * Makes the weight, and the bias where there is one, trained: the parameters' values are this
   * layer's memory.
   */
  void train(@Nullable Parameter newWeight, @Nullable Parameter newBias) {
    this.weightParameter = newWeight;
    this.biasParameter = newBias;
  }

  @Override
  public long[] weightShape() {
    return new long[] {out(), in()};
  }

  @Override
  public long biasLength() {
    return frozenBias == null ? 0 : frozenBias.elements();
  }

  @Override
  public void copyWeight(long first, DeviceTensor target) {
    if (frozenWeight.format() != WeightFormat.DENSE) {
      throw new InputException(
          "modules_to_save: expected modules that are not quantized, found "
              + name
              + ", whose weight is in "
              + frozenWeight.format()
              + "; give it an adapter instead, or use a base in 16 or 32 bits");
    }
    TorchBridge.copy(frozenWeight.data().rows(first, target.rows()), target);
  }

  @Override
  public void copyBias(DeviceTensor target) {
    TorchBridge.copy(Objects.requireNonNull(frozenBias), target);
  }

  @Override
  public void replace(@Nullable Parameter newWeight, @Nullable Parameter newBias) {
    weight = newWeight == null ? frozenWeight : Weight.dense(newWeight.value());
    bias = newBias == null ? frozenBias : newBias.value();
    train(newWeight, newBias);
  }

  /**
   * y = x * w^T + bias + branch + residual.
   *
   * @param x [m, in]
   * @param residual [m, out] or null; may be {@code y}
   * @param y [m, out], or null when only what the backward needs is wanted
   */
  Saved forward(
      Pass pass, DeviceTensor x, @Nullable DeviceTensor residual, @Nullable DeviceTensor y) {
    LoraLayer branch = lora;
    if (branch != null && branch.dora() != null) {
      return DoraBranch.forward(pass, this, branch, x, residual, y);
    }
    LoraTerm term = null;
    DeviceTensor xa = null;
    if (branch != null) {
      term = branch.term(pass.loraCompute(), pass.dropout(branch.dropout(), number));
      xa = pass.arena().allocate(DType.F32, x.rows(), branch.rank());
    }
    if (y != null) {
      product(pass, x, term, bias, residual, y, xa);
    } else if (term != null) {
      Linear.forward(pass.pack(), x, weight, term, null, null, null, xa);
    }
    return new Saved(x, xa, null);
  }

  /** y = x * w^T + bias + branch + residual, with a branch that is given. */
  void product(
      Pass pass,
      DeviceTensor x,
      @Nullable LoraTerm term,
      @Nullable DeviceTensor added,
      @Nullable DeviceTensor residual,
      DeviceTensor y,
      @Nullable DeviceTensor xa) {
    if (outlierThreshold > 0) {
      MixedInt8.forward(pass, x, weight, outlierThreshold, term, added, residual, y, xa);
    } else {
      Linear.forward(pass.pack(), x, weight, term, added, residual, y, xa);
    }
  }

  /**
   * Adds the gradients of what is trained here, and gives the gradient of the input.
   *
   * @param dy [m, out]
   * @param dx [m, in], or null when the input needs no gradient
   * @param accumulate whether dx is added to
   */
  void backward(
      Pass pass, Saved saved, DeviceTensor dy, @Nullable DeviceTensor dx, boolean accumulate) {
    DeviceTensor x = saved.x();
    LoraLayer branch = lora;
    var mark = pass.arena().mark();
    if (branch == null) {
      if (dx != null) {
        Linear.backwardInput(pass.pack(), dy, weight, null, dx, accumulate, null);
      }
    } else if (branch.dora() != null) {
      if (weightParameter != null) {
        throw new IllegalStateException(name + " has a DoRA, whose weight must be frozen");
      }
      DoraBranch.backward(pass, this, branch, saved, dy, dx, accumulate);
    } else {
      LoraTerm term = branch.term(pass.loraCompute(), pass.dropout(branch.dropout(), number));
      DeviceTensor xa = Objects.requireNonNull(saved.xa());
      DeviceTensor dyb = pass.arena().allocate(DType.F32, x.rows(), branch.rank());
      Linear.backwardInput(pass.pack(), dy, weight, term, dx, accumulate, dyb);
      Lora.weightGradient(
          pass.pack(), term, x, dy, xa, dyb, branch.a().gradient(), branch.b().gradient());
    }
    if (weightParameter != null || biasParameter != null) {
      Linear.weightGradient(
          pass.pack(),
          x,
          dy,
          weightParameter == null ? null : weightParameter.gradient(),
          biasParameter == null ? null : biasParameter.gradient());
    }
    pass.arena().release(mark);
  }
}
