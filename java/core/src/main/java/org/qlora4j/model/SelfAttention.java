// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.Rotary;
import org.qlora4j.model.KeptTensors.Part;
import org.qlora4j.model.KeptTensors.Slot;

/**
 * Projections, rotary embedding, causal attention with grouped heads, output projection.
 *
 * <p>The projections are three linears (Llama), or one whose output is laid out [head][q, k,
 * v][head size] (GPT-NeoX); {@link Heads} is what differs.
 */
final class SelfAttention {

  private final ModelConfig config;
  private final DeviceTensor inverseFrequencies;
  private final Projection projection;
  private final LinearLayer output;
  private final AttentionCore core;

  /** The projections to queries, keys and values. */
  sealed interface Projection permits Separate, Fused {}

  /** q [heads * d, hidden], k and v [kvHeads * d, hidden]. */
  record Separate(LinearLayer q, LinearLayer k, LinearLayer v) implements Projection {}

  /** qkv [heads * 3 * d, hidden], per head q, k, v. */
  record Fused(LinearLayer qkv) implements Projection {}

  /** Where the heads of the queries, keys and values (or their gradients) are. */
  private record Heads(HeadView q, HeadView k, HeadView v) {}

  /**
   * What the backward needs.
   *
   * @param projections saved linears: q, k, v or qkv
   * @param q [m, heads * d], rotated; the fused tensor for a fused projection
   * @param k [m, kvHeads * d], rotated; null when fused
   * @param v [m, kvHeads * d]; null when fused
   * @param mixed attention output [m, heads * d]
   * @param lse f32 [heads, m]; null where the core's backward does without
   */
  record Saved(
      List<LinearLayer.Saved> projections,
      DeviceTensor q,
      @Nullable DeviceTensor k,
      @Nullable DeviceTensor v,
      DeviceTensor mixed,
      @Nullable DeviceTensor lse,
      LinearLayer.Saved output) {}

  SelfAttention(
      ModelConfig config,
      DeviceTensor inverseFrequencies,
      Projection projection,
      LinearLayer output,
      AttentionCore core) {
    this.config = config;
    this.inverseFrequencies = inverseFrequencies;
    this.projection = projection;
    this.output = output;
    this.core = core;
  }

  /** What the attention of a model with this config computes. */
  static Attention.Shape shape(ModelConfig config) {
    return Attention.Shape.causal(config.heads(), config.kvHeads(), config.headDim());
  }

  /** Features of its result. */
  long hidden() {
    return output.out();
  }

  /** What of it {@code save} asks to keep. */
  List<Part> parts(Set<CheckpointSave> save) {
    List<Part> parts = new ArrayList<>();
    if (save.contains(CheckpointSave.QKV)) {
      if (projection instanceof Separate p) {
        parts.add(new Part(Slot.QUERIES, p.q().out()));
        parts.add(new Part(Slot.KEYS, p.k().out()));
        parts.add(new Part(Slot.VALUES, p.v().out()));
      } else {
        parts.add(new Part(Slot.QUERIES, ((Fused) projection).qkv().out()));
      }
    }
    if (save.contains(CheckpointSave.ATTENTION)) {
      parts.add(new Part(Slot.MIXED, config.queryWidth()));
      if (core.needsLse()) {
        parts.add(new Part(Slot.LSE, config.heads()));
      }
    }
    return parts;
  }

  /**
   * out = attention(h) + residual.
   *
   * @param h [m, hidden], normalised
   * @param out null when only what the backward needs is wanted
   * @param cache keys and values of earlier tokens, to be appended to; null without one
   * @param kept of an earlier forward of the same h, or for this one to fill
   */
  Saved forward(
      Pass pass,
      SequenceBatch batch,
      DeviceTensor h,
      DeviceTensor residual,
      @Nullable DeviceTensor out,
      KvCache.@Nullable Layer cache,
      KeptTensors kept) {
    long m = h.rows();
    boolean projected = kept.has(Slot.QUERIES);
    DeviceTensor q;
    DeviceTensor k = null;
    DeviceTensor v = null;
    List<LinearLayer.Saved> saved;
    if (projection instanceof Separate p) {
      q = kept.activation(pass, Slot.QUERIES, m, p.q().out());
      k = kept.activation(pass, Slot.KEYS, m, p.k().out());
      v = kept.activation(pass, Slot.VALUES, m, p.v().out());
      saved =
          List.of(
              p.q().forward(pass, h, null, projected ? null : q),
              p.k().forward(pass, h, null, projected ? null : k),
              p.v().forward(pass, h, null, projected ? null : v));
    } else {
      LinearLayer qkv = ((Fused) projection).qkv();
      q = kept.activation(pass, Slot.QUERIES, m, qkv.out());
      saved = List.of(qkv.forward(pass, h, null, projected ? null : q));
    }
    Heads heads = heads(q, k, v);
    if (!projected) {
      rotate(pass, batch, heads, false);
    }

    DeviceTensor mixed = kept.activation(pass, Slot.MIXED, m, config.queryWidth());
    HeadView keys = heads.k();
    HeadView values = heads.v();
    int[] cuKeys = batch.cuSeqlens();
    if (cache != null) {
      cache.append(keys, values, batch.tokens());
      keys = cache.keys();
      values = cache.values();
      cuKeys = new int[] {0, cache.length()};
    }
    DeviceTensor lse = kept.find(Slot.LSE);
    if (lse == null && core.needsLse()) {
      lse = pass.arena().allocate(DType.F32, config.heads(), m);
    }
    if (!kept.has(Slot.MIXED)) {
      core.forward(
          pass, batch.cuSeqlens(), cuKeys, heads.q(), keys, values, mixedHeads(mixed), lse);
    }
    LinearLayer.Saved savedOutput = output.forward(pass, mixed, out == null ? null : residual, out);
    return new Saved(saved, q, k, v, mixed, lse, savedOutput);
  }

  /** Gradients of the adapters or weights here; dh = gradient of h where wanted. */
  void backward(
      Pass pass, SequenceBatch batch, Saved saved, DeviceTensor dout, @Nullable DeviceTensor dh) {
    var mark = pass.arena().mark();
    long m = dout.rows();
    DeviceTensor dmixed = pass.activation(m, saved.mixed().cols());
    output.backward(pass, saved.output(), dout, dmixed, false);

    DeviceTensor dq = pass.activation(m, saved.q().cols());
    DeviceTensor dk = saved.k() == null ? null : pass.activation(m, saved.k().cols());
    DeviceTensor dv = saved.v() == null ? null : pass.activation(m, saved.v().cols());
    Heads heads = heads(saved.q(), saved.k(), saved.v());
    Heads gradients = heads(dq, dk, dv);
    core.backward(
        pass,
        batch.cuSeqlens(),
        heads.q(),
        heads.k(),
        heads.v(),
        mixedHeads(saved.mixed()),
        saved.lse(),
        mixedHeads(dmixed),
        gradients.q(),
        gradients.k(),
        gradients.v());
    rotate(pass, batch, gradients, true);

    List<LinearLayer.Saved> inputs = saved.projections();
    if (projection instanceof Separate p) {
      p.q().backward(pass, inputs.get(0), dq, dh, false);
      p.k().backward(pass, inputs.get(1), Objects.requireNonNull(dk), dh, true);
      p.v().backward(pass, inputs.get(2), Objects.requireNonNull(dv), dh, true);
    } else {
      ((Fused) projection).qkv().backward(pass, inputs.get(0), dq, dh, false);
    }
    pass.arena().release(mark);
  }

  private void rotate(Pass pass, SequenceBatch batch, Heads heads, boolean inverse) {
    rotate(pass, batch, heads.q(), config.heads(), inverse);
    rotate(pass, batch, heads.k(), config.kvHeads(), inverse);
  }

  private void rotate(Pass pass, SequenceBatch batch, HeadView x, int heads, boolean inverse) {
    Rotary.apply(
        pass.pack(),
        x,
        heads,
        config.rotaryDim(),
        batch.positions(),
        inverseFrequencies,
        1f,
        inverse);
  }

  private Heads heads(DeviceTensor q, @Nullable DeviceTensor k, @Nullable DeviceTensor v) {
    long d = config.headDim();
    if (k == null || v == null) {
      long token = q.rowStride();
      return new Heads(
          new HeadView(q, 0, token, 3 * d),
          new HeadView(q, d, token, 3 * d),
          new HeadView(q, 2 * d, token, 3 * d));
    }
    return new Heads(
        HeadView.of(q, config.headDim()),
        HeadView.of(k, config.headDim()),
        HeadView.of(v, config.headDim()));
  }

  private HeadView mixedHeads(DeviceTensor mixed) {
    return HeadView.of(mixed, config.headDim());
  }
}
