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

/**
 * The one decoder block.
 *
 * <ul>
 *   <li>sequential residual: middle = x + attention(norm1(x)); out = middle + ffn(norm2(middle))
 *   <li>parallel residual: out = x + attention(norm1(x)) + ffn(norm2(x))
 * </ul>
 */
final class DecoderBlock {

  private final boolean parallelResidual;
  private final NormLayer attentionNorm;
  private final SelfAttention attention;
  private final NormLayer ffnNorm;
  private final FeedForward ffn;
  private final List<LinearLayer> linears;

  /** What the backward needs of a forward. */
  record Saved(
      NormLayer.Saved attentionNorm,
      SelfAttention.Saved attention,
      NormLayer.Saved ffnNorm,
      FeedForward.Saved ffn) {}

  DecoderBlock(
      boolean parallelResidual,
      NormLayer attentionNorm,
      SelfAttention attention,
      NormLayer ffnNorm,
      FeedForward ffn,
      List<LinearLayer> linears) {
    this.parallelResidual = parallelResidual;
    this.attentionNorm = attentionNorm;
    this.attention = attention;
    this.ffnNorm = ffnNorm;
    this.ffn = ffn;
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
   * @param kept of an earlier forward of the same x, or for this one to fill
   */
  Saved forward(
      Pass pass,
      SequenceBatch batch,
      DeviceTensor x,
      @Nullable DeviceTensor out,
      KvCache.@Nullable Layer cache,
      KeptTensors kept) {
    DeviceTensor h1 = pass.activation(x.rows(), x.cols());
    NormLayer.Saved saved1 = attentionNorm.forward(pass, x, h1);
    // A parallel residual's sum is wanted for out alone, no gradient needs it.
    DeviceTensor middle =
        parallelResidual && out == null
            ? null
            : kept.activation(pass, Slot.MIDDLE, x.rows(), x.cols());
    SelfAttention.Saved savedAttention =
        attention.forward(pass, batch, h1, x, kept.has(Slot.MIDDLE) ? null : middle, cache, kept);
    DeviceTensor h2 = pass.activation(x.rows(), x.cols());
    NormLayer.Saved saved2 =
        ffnNorm.forward(pass, parallelResidual ? x : Objects.requireNonNull(middle), h2);
    FeedForward.Saved savedFfn = ffn.forward(pass, h2, out == null ? null : middle, out, kept);
    return new Saved(saved1, savedAttention, saved2, savedFfn);
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
    long rows = dout.rows();
    long cols = dout.cols();
    DeviceTensor dh2 = pass.activation(rows, cols);
    ffn.backward(pass, saved.ffn(), dout, dh2);
    DeviceTensor dmiddle = pass.activation(rows, cols);
    ffnNorm.backward(pass, saved.ffnNorm(), dh2, dout, dmiddle);
    // Sequential: dmiddle is the gradient of the attention's output. Parallel: that gradient is
    // dout itself, and dmiddle
    // is what reaches x along the residual path and the feed-forward.
    DeviceTensor dh1 = dx == null ? null : dh2;
    attention.backward(pass, batch, saved.attention(), parallelResidual ? dout : dmiddle, dh1);
    if (dx != null && dh1 != null) {
      attentionNorm.backward(pass, saved.attentionNorm(), dh1, dmiddle, dx);
    }
    pass.arena().release(mark);
  }
}
