// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * SiLU and GELU, alone and gating, forward and backward, with gaps between rows and with outputs
 * over inputs.
 */
class ActivationParityTest extends ParityTest {
  private static final long SEED = 4160;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] shapes = {
      {0, 8}, {1, 1}, {1, 7}, {2, 15}, {3, 16}, {2, 17}, {4, 63}, {5, 64}, {3, 65}, {7, 1000},
      {65, 130}
    };
    for (DType type : List.of(DType.F32, DType.BF16)) {
      for (Activation.Kind kind : Activation.Kind.values()) {
        for (boolean gated : new boolean[] {false, true}) {
          for (int[] s : shapes) {
            for (Layout layout : Layout.values()) {
              String name =
                  type
                      + " "
                      + kind
                      + (gated ? " gated" : "")
                      + " ["
                      + s[0]
                      + ", "
                      + s[1]
                      + "] "
                      + layout
                      + " seed="
                      + SEED;
              long work = (long) s[0] * s[1];
              cases.add(
                  new Case(
                      "forward " + name,
                      "activation_forward",
                      work,
                      (memory, outputs) ->
                          forward(type, kind, gated, s[0], s[1], layout, memory, outputs)));
              cases.add(
                  new Case(
                      "backward " + name,
                      "activation_backward",
                      work,
                      (memory, outputs) ->
                          backward(type, kind, gated, s[0], s[1], layout, memory, outputs)));
            }
          }
        }
        cases.add(
            new Case(
                "NaN and infinity " + type + " " + kind,
                "activation_forward",
                20,
                (memory, outputs) -> notFinite(type, kind, memory, outputs)));
      }
    }
    return cases;
  }

  private enum Layout {
    APART,
    GAPS,
    IN_PLACE
  }

  /**
   * act(x) is rounded, then the product. GELU's tail cancels, so its error is one of f32 arithmetic
   * around the largest value.
   */
  private static Tolerance result(DType type) {
    return Tolerance.rounded(type, 2)
        .plus(Tolerance.function(16))
        .plus(Tolerance.ofLargest(8 * Tolerance.roundoff(DType.F32)).ofTerms(1));
  }

  private static float[] values(Randoms random, long count) {
    float[] values = random.normal(count, 2);
    for (int i = 0; i < values.length; i += 11) {
      values[i] *= 20;
    }
    return values;
  }

  private static DeviceTensor input(
      DeviceMemory memory, DType type, float[] values, int m, int n, Layout layout) {
    return layout == Layout.GAPS
        ? memory.ofStrided(type, values, m, n, n + 9)
        : memory.of(type, values, m, n);
  }

  private static DeviceTensor output(DeviceMemory memory, DType type, int m, int n, Layout layout) {
    return layout == Layout.GAPS ? memory.strided(type, m, n, n + 4) : memory.empty(type, m, n);
  }

  private static void forward(
      DType type,
      Activation.Kind kind,
      boolean gated,
      int m,
      int n,
      Layout layout,
      DeviceMemory memory,
      Outputs outputs) {
    Randoms random = new Randoms(SEED + n);
    DeviceTensor x = input(memory, type, values(random, (long) m * n), m, n, layout);
    DeviceTensor up =
        gated ? input(memory, type, random.normal((long) m * n, 1), m, n, layout) : null;
    DeviceTensor y = layout == Layout.IN_PLACE ? x : memory.empty(type, m, n);
    Activation.forward(memory.pack(), kind, x, up, y);
    outputs.add("y", y, result(type));
  }

  private static void backward(
      DType type,
      Activation.Kind kind,
      boolean gated,
      int m,
      int n,
      Layout layout,
      DeviceMemory memory,
      Outputs outputs) {
    Randoms random = new Randoms(SEED + n + 1);
    DeviceTensor x = input(memory, type, values(random, (long) m * n), m, n, layout);
    DeviceTensor up =
        gated ? input(memory, type, random.normal((long) m * n, 1), m, n, layout) : null;
    DeviceTensor dy = memory.of(type, random.normal((long) m * n, 1), m, n);
    DeviceTensor dx = layout == Layout.IN_PLACE ? x : output(memory, type, m, n, layout);
    DeviceTensor dup = null;
    if (up != null) {
      // In place, the gradient of up goes over up in some shapes and over dy in the others.
      dup = layout == Layout.IN_PLACE ? (n % 2 == 0 ? up : dy) : output(memory, type, m, n, layout);
    }
    Activation.backward(memory.pack(), kind, x, up, dy, dx, dup);
    outputs.add("dx", dx, result(type));
    if (dup != null) {
      outputs.add("dup", dup, result(type));
    }
  }

  private static void notFinite(
      DType type, Activation.Kind kind, DeviceMemory memory, Outputs outputs) {
    float[] x = {
      Float.NaN,
      Float.POSITIVE_INFINITY,
      0,
      -0f,
      1e-30f,
      -1e-30f,
      1e30f,
      200,
      90,
      60,
      20,
      -20,
      -60,
      3,
      -3,
      0.5f,
      -0.5f,
      1,
      -1,
      7
    };
    DeviceTensor y = memory.empty(type, 1, x.length);
    Activation.forward(memory.pack(), kind, memory.of(type, x, 1, x.length), null, y);
    // An infinity fills the tensor's largest magnitude; only finite ones count there.
    outputs.add(
        "y",
        y,
        Tolerance.rounded(type, 2).plus(Tolerance.function(16)).plus(Tolerance.ofLargest(0)));
  }
}
