// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Tolerance;

/**
 * Causal attention: several sequences, grouped heads, windows, caches, fused and separate tensors;
 * forward and backward.
 */
class AttentionParityTest extends ParityTest {

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    for (AttentionSetup setup : AttentionSetup.all()) {
      cases.add(
          new Case(
              "forward " + setup.title(),
              "attention_forward",
              setup.work(),
              (memory, outputs) -> forward(setup, memory, outputs)));
      cases.add(
          new Case(
              "backward " + setup.title(),
              "attention_backward",
              4 * setup.work(),
              (memory, outputs) -> backward(setup, memory, outputs)));
    }
    return cases;
  }

  private static void forward(AttentionSetup setup, DeviceMemory memory, Outputs outputs) {
    AttentionSetup.Tensors t = new AttentionSetup.Tensors(setup, memory);
    DeviceTensor withoutLse = t.queries();
    run(setup, memory, t, t.out, t.lse);
    run(setup, memory, t, withoutLse, null);
    outputs.add("out", t.out, setup.tolerance(1));
    outputs.add("out without lse", withoutLse, setup.tolerance(1));
    outputs.add("lse", t.lse, Tolerance.function(16).plus(Tolerance.sum(setup.shape().headDim())));
  }

  private static void run(
      AttentionSetup setup,
      DeviceMemory memory,
      AttentionSetup.Tensors t,
      DeviceTensor out,
      @Nullable DeviceTensor lse) {
    Attention.forward(
        memory.pack(), setup.shape(), setup.cuQ(), setup.cuK(), t.q, t.k, t.v, t.heads(out), lse);
  }

  private static void backward(AttentionSetup setup, DeviceMemory memory, Outputs outputs) {
    AttentionSetup.Tensors t = new AttentionSetup.Tensors(setup, memory);
    run(setup, memory, t, t.out, t.lse);
    DeviceTensor dout = t.dout();
    DeviceTensor dq = t.queries();
    DeviceTensor dk = t.keys();
    DeviceTensor dv = t.keys();
    Attention.backward(
        memory.pack(),
        setup.shape(),
        setup.cuQ(),
        setup.cuK(),
        t.q,
        t.k,
        t.v,
        t.heads(t.out),
        t.lse,
        t.heads(dout),
        t.heads(dq),
        t.heads(dk),
        t.heads(dv));
    // The gradient of a score is the difference of two scaled dot products of size 1; with one
    // key in sight they cancel in full.
    outputs.add("dq", dq, setup.tolerance(2).ofTerms(1));
    outputs.add("dk", dk, setup.tolerance(2).ofTerms(1));
    outputs.add("dv", dv, setup.tolerance(2));
  }
}
