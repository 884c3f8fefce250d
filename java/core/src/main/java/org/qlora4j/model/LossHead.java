// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tensor.TorchBridge;

/**
 * Final norm, output head and cross entropy over the tokens that have a label, chunk by chunk, so
 * that the logits of a whole batch never exist at once: a chunk's logits become its gradient, in
 * place where they are not capped, and that becomes the gradient of its hidden rows.
 */
final class LossHead {

  private final NormLayer finalNorm;
  private final LinearLayer head;
  private final float softcap;

  /**
   * @param softcap of the logits, or 0
   */
  LossHead(NormLayer finalNorm, LinearLayer head, float softcap) {
    this.finalNorm = finalNorm;
    this.head = head;
    this.softcap = softcap;
  }

  /** Logits of rows of hidden states: [rows, vocabulary] in the compute type. */
  DeviceTensor logits(Pass pass, DeviceTensor hidden) {
    DeviceTensor h = pass.activation(hidden.rows(), hidden.cols());
    finalNorm.forward(pass, hidden, h);
    DeviceTensor logits = pass.activation(hidden.rows(), head.out());
    head.forward(pass, h, null, logits);
    cap(logits);
    return logits;
  }

  private void cap(DeviceTensor logits) {
    if (softcap > 0) {
      TorchBridge.softcap(logits, softcap);
    }
  }

  /**
   * Sum of the losses of all labelled tokens; with {@code dhidden}, also the gradients.
   *
   * @param hidden output of the last block, [tokens, hidden]
   * @param labels [tokens]: the token that follows, or {@link CrossEntropy#IGNORE}
   * @param scale factor of the loss in the objective, for example 1 / label tokens of the whole
   *     step
   * @param chunkRows most rows whose logits exist at once
   * @param regularization its label smoothing and z-loss
   * @param dhidden gradient of {@code hidden}, overwritten; null when only the loss is wanted
   */
  double loss(
      Pass pass,
      DeviceTensor hidden,
      int[] labels,
      float scale,
      int chunkRows,
      Regularization regularization,
      @Nullable DeviceTensor dhidden) {
    var mark = pass.arena().mark();
    int[] rows = labelled(labels);
    DeviceTensor rowIds = pass.arena().allocate(DType.I32, rows.length);
    rowIds.copyFrom(rows);
    DeviceTensor u = pass.activation(rows.length, hidden.cols());
    TorchBridge.gatherRows(hidden, rowIds, u);
    DeviceTensor h = pass.activation(rows.length, hidden.cols());
    NormLayer.Saved savedNorm = finalNorm.forward(pass, u, h);
    DeviceTensor dh = dhidden == null ? null : pass.activation(rows.length, hidden.cols());

    DeviceTensor rowLabels = pass.arena().allocate(DType.I32, rows.length);
    rowLabels.copyFrom(gather(labels, rows));
    DeviceTensor losses = pass.arena().allocate(DType.F32, rows.length);
    for (int first = 0; first < rows.length; first += chunkRows) {
      int count = Math.min(chunkRows, rows.length - first);
      chunk(
          pass,
          h.rows(first, count),
          rowLabels.rows(first, count),
          scale,
          regularization,
          losses.rows(first, count),
          dh == null ? null : dh.rows(first, count));
    }
    if (dhidden != null && dh != null) {
      DeviceTensor du = pass.activation(rows.length, hidden.cols());
      finalNorm.backward(pass, savedNorm, dh, null, du);
      TorchBridge.scatterRows(du, rowIds, dhidden);
    }
    // Waits for the device, so once for all chunks, and after the last of their work.
    double sum = 0;
    for (float loss : losses.toFloats()) {
      sum += loss;
    }
    pass.arena().release(mark);
    return sum;
  }

  private void chunk(
      Pass pass,
      DeviceTensor h,
      DeviceTensor labels,
      float scale,
      Regularization regularization,
      DeviceTensor losses,
      @Nullable DeviceTensor dh) {
    var mark = pass.arena().mark();
    DeviceTensor logits = pass.activation(h.rows(), head.out());
    LinearLayer.Saved saved = head.forward(pass, h, null, logits);
    cap(logits);
    // Without a cap nobody needs the logits any more, and their gradient takes their place.
    DeviceTensor dlogits =
        dh == null ? null : softcap > 0 ? pass.activation(logits.rows(), logits.cols()) : logits;
    CrossEntropy.apply(
        pass.pack(),
        logits,
        labels,
        (float) regularization.labelSmoothing(),
        (float) regularization.zLoss(),
        scale,
        losses,
        dlogits);
    if (dh != null && dlogits != null) {
      if (softcap > 0) {
        TorchBridge.softcapBackward(logits, softcap, dlogits);
      }
      head.backward(pass, saved, dlogits, dh, false);
    }
    pass.arena().release(mark);
  }

  private static int[] gather(int[] labels, int[] rows) {
    int[] gathered = new int[rows.length];
    for (int i = 0; i < rows.length; i++) {
      gathered[i] = labels[rows[i]];
    }
    return gathered;
  }

  private static int[] labelled(int[] labels) {
    int count = 0;
    for (int label : labels) {
      count += label == CrossEntropy.IGNORE ? 0 : 1;
    }
    int[] rows = new int[count];
    for (int i = 0, n = 0; i < labels.length; i++) {
      if (labels[i] != CrossEntropy.IGNORE) {
        rows[n++] = i;
      }
    }
    return rows;
  }
}
