// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.model.KeptTensors.Part;
import org.qlora4j.model.KeptTensors.Slot;

/** down(act(gate(h)) * up(h)), or down(act(up(h))) without a gate. */
final class FeedForward {

  private final Activation.Kind activation;
  private final Expansion expansion;
  private final LinearLayer down;

  /** The linears from the hidden width to the MLP's. */
  sealed interface Expansion permits Plain, Gated, GatedFused {}

  /** up [ffn, hidden]. */
  record Plain(LinearLayer up) implements Expansion {}

  /** gate and up, each [ffn, hidden]. */
  record Gated(LinearLayer gate, LinearLayer up) implements Expansion {}

  /** gate and up in one, [2 ffn, hidden], the gate first. */
  record GatedFused(LinearLayer gateUp) implements Expansion {}

  /**
   * What the backward needs.
   *
   * @param expansion saved linears: up, gate and up, or the one that is both
   * @param gate output of the gate [m, ffn], columns of the fused one's; null without a gate
   * @param up output of up [m, ffn], likewise
   */
  record Saved(
      List<LinearLayer.Saved> expansion,
      @Nullable DeviceTensor gate,
      DeviceTensor up,
      LinearLayer.Saved down) {}

  FeedForward(Activation.Kind activation, Expansion expansion, LinearLayer down) {
    this.activation = activation;
    this.expansion = expansion;
    this.down = down;
  }

  /** What of it {@code save} asks to keep. */
  List<Part> parts(Set<CheckpointSave> save) {
    if (!save.contains(CheckpointSave.MLP)) {
      return List.of();
    }
    if (expansion instanceof GatedFused e) {
      return List.of(new Part(Slot.UP, e.gateUp().out()));
    }
    Part up = new Part(Slot.UP, down.in());
    return expansion instanceof Plain ? List.of(up) : List.of(up, new Part(Slot.GATE, down.in()));
  }

  /**
   * out = feed-forward(h) + residual.
   *
   * @param residual [m, hidden] or null, which it is where out is
   * @param out may be residual, or null when only what the backward needs is wanted
   * @param kept of an earlier forward of the same h, or for this one to fill
   */
  Saved forward(
      Pass pass,
      DeviceTensor h,
      @Nullable DeviceTensor residual,
      @Nullable DeviceTensor out,
      KeptTensors kept) {
    long m = h.rows();
    long ffn = down.in();
    boolean projected = kept.has(Slot.UP);
    DeviceTensor gate = null;
    DeviceTensor up;
    List<LinearLayer.Saved> saved;
    if (expansion instanceof Plain e) {
      up = kept.activation(pass, Slot.UP, m, ffn);
      saved = List.of(e.up().forward(pass, h, null, projected ? null : up));
    } else if (expansion instanceof Gated e) {
      up = kept.activation(pass, Slot.UP, m, ffn);
      gate = kept.activation(pass, Slot.GATE, m, ffn);
      saved =
          List.of(
              e.gate().forward(pass, h, null, projected ? null : gate),
              e.up().forward(pass, h, null, projected ? null : up));
    } else {
      DeviceTensor both = kept.activation(pass, Slot.UP, m, 2 * ffn);
      gate = both.columns(0, ffn);
      up = both.columns(ffn, ffn);
      LinearLayer gateUp = ((GatedFused) expansion).gateUp();
      saved = List.of(gateUp.forward(pass, h, null, projected ? null : both));
    }
    DeviceTensor active = pass.activation(m, ffn);
    if (gate == null) {
      Activation.forward(pass.pack(), activation, up, null, active);
    } else {
      Activation.forward(pass.pack(), activation, gate, up, active);
    }
    LinearLayer.Saved savedDown = down.forward(pass, active, residual, out);
    return new Saved(saved, gate, up, savedDown);
  }

  /** Gradients of the adapters or weights here; dh = gradient of h. */
  void backward(Pass pass, Saved saved, DeviceTensor dout, DeviceTensor dh) {
    var mark = pass.arena().mark();
    long m = dout.rows();
    long ffn = down.in();
    List<LinearLayer.Saved> inputs = saved.expansion();
    DeviceTensor dactive = pass.activation(m, ffn);
    down.backward(pass, saved.down(), dout, dactive, false);
    if (expansion instanceof Plain e) {
      DeviceTensor dup = pass.activation(m, ffn);
      Activation.backward(pass.pack(), activation, saved.up(), null, dactive, dup, null);
      e.up().backward(pass, inputs.get(0), dup, dh, false);
    } else if (expansion instanceof Gated e) {
      DeviceTensor dgate = pass.activation(m, ffn);
      DeviceTensor dup = pass.activation(m, ffn);
      gateBackward(pass, saved, dactive, dgate, dup);
      e.gate().backward(pass, inputs.get(0), dgate, dh, false);
      e.up().backward(pass, inputs.get(1), dup, dh, true);
    } else {
      DeviceTensor dboth = pass.activation(m, 2 * ffn);
      gateBackward(pass, saved, dactive, dboth.columns(0, ffn), dboth.columns(ffn, ffn));
      ((GatedFused) expansion).gateUp().backward(pass, inputs.get(0), dboth, dh, false);
    }
    pass.arena().release(mark);
  }

  private void gateBackward(
      Pass pass, Saved saved, DeviceTensor dactive, DeviceTensor dgate, DeviceTensor dup) {
    DeviceTensor gate = Objects.requireNonNull(saved.gate());
    Activation.backward(pass.pack(), activation, gate, saved.up(), dactive, dgate, dup);
  }
}
