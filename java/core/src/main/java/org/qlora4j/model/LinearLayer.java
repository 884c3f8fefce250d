// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.Lora;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.Weight;
import org.qlora4j.lora.LoraLayer;

/**
 * A linear layer, {@code y = x * w^T + bias}, over a dense or a quantized weight, with or without a
 * LoRA branch (docs/lora.md).
 *
 * <p>The weight is frozen unless {@link #train} gave it a parameter; the branch's a and b are
 * trained where there is one.
 */
public final class LinearLayer {

  private final String name;
  private final int number;
  private final Weight weight;
  private final @Nullable DeviceTensor bias;
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
    this.weight = weight;
    this.bias = bias;
  }

  /**
   * What the backward needs of a forward.
   *
   * @param x input [m, in], borrowed from the layer before
   * @param xa f32 [m, rank], or null without a branch
   */
  record Saved(DeviceTensor x, @Nullable DeviceTensor xa) {}

  public String name() {
    return name;
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
  void train(Parameter newWeight, @Nullable Parameter newBias) {
    this.weightParameter = newWeight;
    this.biasParameter = newBias;
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
    LoraTerm term = null;
    DeviceTensor xa = null;
    if (branch != null) {
      term = branch.term(pass.loraCompute(), pass.dropout(branch.dropout(), number));
      xa = pass.arena().allocate(DType.F32, x.rows(), branch.rank());
    }
    if (y != null && outlierThreshold > 0) {
      MixedInt8.forward(pass, x, weight, outlierThreshold, term, bias, residual, y, xa);
    } else if (y != null || term != null) {
      Linear.forward(pass.pack(), x, weight, term, bias, residual, y, xa);
    }
    return new Saved(x, xa);
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
    } else {
      LoraTerm term = branch.term(pass.loraCompute(), pass.dropout(branch.dropout(), number));
      DeviceTensor xa = Objects.requireNonNull(saved.xa());
      DeviceTensor dyb = pass.arena().allocate(DType.F32, x.rows(), branch.rank());
      Linear.backwardInput(pass.pack(), dy, weight, term, dx, accumulate, dyb);
      Lora.weightGradient(
          pass.pack(), term, x, dy, xa, dyb, branch.a().gradient(), branch.b().gradient());
    }
    if (weightParameter != null) {
      Linear.weightGradient(
          pass.pack(),
          x,
          dy,
          weightParameter.gradient(),
          biasParameter == null ? null : biasParameter.gradient());
    }
    pass.arena().release(mark);
  }
}
