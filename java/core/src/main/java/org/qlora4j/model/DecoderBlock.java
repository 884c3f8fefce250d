// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.model.KeptTensors.Part;
import org.qlora4j.model.KeptTensors.Slot;
import org.qlora4j.tensor.TorchBridge;

/**
 * The one decoder block.
 *
 * <ul>
 *   <li>sequential residual: middle = x + attention(norm1(x)); out = middle + ffn(norm2(middle))
 *   <li>parallel residual: out = x + attention(norm1(x)) + ffn(norm2(x))
 *   <li>with output norms: middle = x + norm3(attention(norm1(x))); out = middle +
 *       norm4(ffn(norm2(middle)))
 * </ul>
 */
final class DecoderBlock {

  private final boolean parallelResidual;
  private final NormLayer attentionNorm;
  private final SelfAttention attention;
  private final NormLayer ffnNorm;
  private final FeedForward ffn;
  private final @Nullable OutputNorms outputNorms;
  private final List<LinearLayer> linears;

  /** The norms behind attention and feed-forward. */
  record OutputNorms(NormLayer attention, NormLayer ffn) {}

  /**
   * What the backward needs of a forward.
   *
   * @param attentionOutputNorm with output norms only, like ffnOutputNorm
   */
  record Saved(
      NormLayer.Saved attentionNorm,
      SelfAttention.Saved attention,
      NormLayer.@Nullable Saved attentionOutputNorm,
      NormLayer.Saved ffnNorm,
      FeedForward.Saved ffn,
      NormLayer.@Nullable Saved ffnOutputNorm) {}

  DecoderBlock(
      boolean parallelResidual,
      NormLayer attentionNorm,
      SelfAttention attention,
      NormLayer ffnNorm,
      FeedForward ffn,
      @Nullable OutputNorms outputNorms,
      List<LinearLayer> linears) {
    this.parallelResidual = parallelResidual;
    this.attentionNorm = attentionNorm;
    this.attention = attention;
    this.ffnNorm = ffnNorm;
    this.ffn = ffn;
    this.outputNorms = outputNorms;
    this.linears = List.copyOf(linears);
  }

  /** Whether the backward pass needs the gradient of x although nothing before it is trained. */
  boolean trainsInputNorm() {
    return attentionNorm.isTrained();
  }

  /** The block's linear layers, in the order of the checkpoint. */
  List<LinearLayer> linears() {
    return linears;
  }

  /** What of it {@code save} asks to keep. */
  List<Part> parts(Set<CheckpointSave> save) {
    List<Part> parts = new ArrayList<>(attention.parts(save));
    if (save.contains(CheckpointSave.RESIDUAL) && !parallelResidual) {
      parts.add(new Part(Slot.MIDDLE, attention.hidden()));
    }
    parts.addAll(ffn.parts(save));
    return parts;
  }

  /**
   * Runs the block.
   *
   * @param x [tokens, hidden]
   * @param out [tokens, hidden], or null when only what the backward needs is wanted
   * @param cache keys and values of earlier tokens, or null
   * @param kept of an earlier forward of the same x, or for this one to fill; with output norms its
   *     middle is what the norm behind attention takes
   */
  Saved forward(
      Pass pass,
      SequenceBatch batch,
      DeviceTensor x,
      @Nullable DeviceTensor out,
      KvCache.@Nullable Layer cache,
      KeptTensors kept) {
    DeviceTensor h1 = like(pass, x);
    NormLayer.Saved saved1 = attentionNorm.forward(pass, x, h1);
    // A parallel residual's sum is wanted for out alone, no gradient needs it.
    DeviceTensor attended =
        parallelResidual && out == null
            ? null
            : kept.activation(pass, Slot.MIDDLE, x.rows(), x.cols());
    DeviceTensor residual = outputNorms == null ? x : null;
    SelfAttention.Saved savedAttention =
        attention.forward(
            pass, batch, h1, residual, kept.has(Slot.MIDDLE) ? null : attended, cache, kept);
    DeviceTensor middle = attended;
    NormLayer.Saved saved3 = null;
    if (outputNorms != null && attended != null) {
      middle = like(pass, x);
      saved3 = outputNorms.attention().forward(pass, attended, middle);
      TorchBridge.add(middle, x);
    }

    DeviceTensor h2 = like(pass, x);
    NormLayer.Saved saved2 =
        ffnNorm.forward(pass, parallelResidual ? x : Objects.requireNonNull(middle), h2);
    FeedForward.Saved savedFfn;
    NormLayer.Saved saved4 = null;
    if (outputNorms == null) {
      savedFfn = ffn.forward(pass, h2, out == null ? null : middle, out, kept);
    } else {
      // The norm saves its input, so that the product before it is computed whoever reads out.
      DeviceTensor fed = like(pass, x);
      savedFfn = ffn.forward(pass, h2, null, fed, kept);
      DeviceTensor normed = out == null ? like(pass, x) : out;
      saved4 = outputNorms.ffn().forward(pass, fed, normed);
      if (out != null) {
        TorchBridge.add(out, Objects.requireNonNull(middle));
      }
    }
    return new Saved(saved1, savedAttention, saved3, saved2, savedFfn, saved4);
  }

  /**
   * Gradients of what is trained here, and of x.
   *
   * @param dout [tokens, hidden]
   * @param dx [tokens, hidden], or null when nothing before this block is trained
   */
  void backward(
      Pass pass, SequenceBatch batch, Saved saved, DeviceTensor dout, @Nullable DeviceTensor dx) {
    var mark = pass.arena().mark();
    DeviceTensor dh2 = like(pass, dout);
    DeviceTensor dfed = dout;
    if (outputNorms != null && saved.ffnOutputNorm() != null) {
      dfed = like(pass, dout);
      outputNorms.ffn().backward(pass, saved.ffnOutputNorm(), dout, null, dfed);
    }
    ffn.backward(pass, saved.ffn(), dfed, dh2);
    DeviceTensor dmiddle = like(pass, dout);
    ffnNorm.backward(pass, saved.ffnNorm(), dh2, dout, dmiddle);

    // Sequential: dmiddle is the gradient of the attention's output. Parallel: that gradient is
    // dout itself, and dmiddle is what reaches x along the residual path and the feed-forward.
    DeviceTensor dattended = parallelResidual ? dout : dmiddle;
    if (outputNorms != null && saved.attentionOutputNorm() != null) {
      DeviceTensor dnormed = dattended;
      dattended = like(pass, dout);
      outputNorms.attention().backward(pass, saved.attentionOutputNorm(), dnormed, null, dattended);
    }
    DeviceTensor dh1 = dx == null ? null : dh2;
    attention.backward(pass, batch, saved.attention(), dattended, dh1);
    if (dx != null && dh1 != null) {
      attentionNorm.backward(pass, saved.attentionNorm(), dh1, dmiddle, dx);
    }
    pass.arena().release(mark);
  }

  private static DeviceTensor like(Pass pass, DeviceTensor x) {
    return pass.activation(x.rows(), x.cols());
  }
}
