// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.model.KeptTensors.Part;
import org.qlora4j.model.KeptTensors.Slot;

/** down(act(gate(h)) * up(h)), or down(act(up(h))) without a gate. */
final class FeedForward {

  private final Activation.Kind activation;
  private final @Nullable LinearLayer gate;
  private final LinearLayer up;
  private final LinearLayer down;

  /**
   * What the backward needs.
   *
   * @param gate saved linear, and its output [m, ffn]; null without a gate
   * @param upOutput [m, ffn]
   */
  record Saved(
      LinearLayer.@Nullable Saved gate,
      @Nullable DeviceTensor gateOutput,
      LinearLayer.Saved up,
      DeviceTensor upOutput,
      LinearLayer.Saved down) {}

  FeedForward(
      Activation.Kind activation, @Nullable LinearLayer gate, LinearLayer up, LinearLayer down) {
    this.activation = activation;
    this.gate = gate;
    this.up = up;
    this.down = down;
  }

  /** What of it {@code save} asks to keep. */
  List<Part> parts(Set<CheckpointSave> save) {
    if (!save.contains(CheckpointSave.MLP)) {
      return List.of();
    }
    Part kept = new Part(Slot.UP, up.out());
    return gate == null ? List.of(kept) : List.of(kept, new Part(Slot.GATE, gate.out()));
  }

  /**
   * out = feed-forward(h) + residual.
   *
   * @param residual null where out is
   * @param out may be residual, or null when only what the backward needs is wanted
   * @param kept of an earlier forward of the same h, or for this one to fill
   */
  Saved forward(
      Pass pass,
      DeviceTensor h,
      @Nullable DeviceTensor residual,
      @Nullable DeviceTensor out,
      KeptTensors kept) {
    boolean projected = kept.has(Slot.UP);
    DeviceTensor upOutput = kept.activation(pass, Slot.UP, h.rows(), up.out());
    LinearLayer.Saved savedUp = up.forward(pass, h, null, projected ? null : upOutput);
    DeviceTensor gateOutput = null;
    LinearLayer.Saved savedGate = null;
    DeviceTensor active = pass.activation(h.rows(), up.out());
    if (gate == null) {
      Activation.forward(pass.pack(), activation, upOutput, null, active);
    } else {
      gateOutput = kept.activation(pass, Slot.GATE, h.rows(), gate.out());
      savedGate = gate.forward(pass, h, null, projected ? null : gateOutput);
      Activation.forward(pass.pack(), activation, gateOutput, upOutput, active);
    }
    LinearLayer.Saved savedDown = down.forward(pass, active, residual, out);
    return new Saved(savedGate, gateOutput, savedUp, upOutput, savedDown);
  }

  /** Gradients of the adapters or weights here; dh = gradient of h. */
  void backward(Pass pass, Saved saved, DeviceTensor dout, DeviceTensor dh) {
    var mark = pass.arena().mark();
    DeviceTensor dactive = pass.activation(dout.rows(), up.out());
    down.backward(pass, saved.down(), dout, dactive, false);
    DeviceTensor dup = pass.activation(dout.rows(), up.out());
    if (gate == null || saved.gate() == null || saved.gateOutput() == null) {
      Activation.backward(pass.pack(), activation, saved.upOutput(), null, dactive, dup, null);
      up.backward(pass, saved.up(), dup, dh, false);
    } else {
      DeviceTensor dgate = pass.activation(dout.rows(), gate.out());
      Activation.backward(
          pass.pack(), activation, saved.gateOutput(), saved.upOutput(), dactive, dgate, dup);
      gate.backward(pass, saved.gate(), dgate, dh, false);
      up.backward(pass, saved.up(), dup, dh, true);
    }
    pass.arena().release(mark);
  }
}
