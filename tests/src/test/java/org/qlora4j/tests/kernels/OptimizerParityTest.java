// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.GradientNorm;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/** AdamW and the gradient norm over many tensors at once. */
class OptimizerParityTest extends ParityTest {
  private static final long SEED = 4190;

  @Override
  protected List<Case> cases() {
    List<Case> cases = new ArrayList<>();
    int[][] lists = {
      {},
      {1},
      {0, 5},
      {7, 8, 9},
      {15, 16, 17, 255, 256, 257},
      {4096, 1, 4095, 0, 70_001},
      // More than one launch of the CUDA pack takes.
      IntStream.range(0, 1700).map(i -> i * 37 % 50).toArray()
    };
    for (int[] lengths : lists) {
      long work = Arrays.stream(lengths).sum();
      String list = lengths.length > 8 ? lengths.length + " tensors" : Arrays.toString(lengths);
      String name = list + " seed=" + SEED;
      cases.add(
          new Case(
              "adamw " + name,
              "adamw",
              work,
              (memory, outputs) -> adamW(lengths, memory, outputs)));
      cases.add(
          new Case(
              "gradient_norm " + name,
              "gradient_norm",
              work,
              (memory, outputs) -> norm(lengths, memory, outputs)));
    }
    cases.add(
        new Case(
            "gradient_norm with NaN",
            "gradient_norm",
            100,
            (memory, outputs) -> {
              float[] values = new Randoms(SEED).normal(100, 1);
              values[63] = Float.NaN;
              outputs.add(
                  "norm",
                  GradientNorm.compute(memory.pack(), List.of(memory.of(DType.F32, values, 100))),
                  Tolerance.EXACT);
            }));
    return cases;
  }

  private static void adamW(int[] lengths, DeviceMemory memory, Outputs outputs) {
    Randoms random = new Randoms(SEED);
    float[] largest = new float[lengths.length];
    List<AdamW.Slot> slots = new ArrayList<>();
    List<DeviceTensor> gradients = new ArrayList<>();
    for (int i = 0; i < lengths.length; i++) {
      int n = lengths[i];
      DeviceTensor gradient = memory.empty(DType.F32, n);
      gradients.add(gradient);
      slots.add(
          new AdamW.Slot(
              memory.of(DType.F32, random.normal(n, 0.1), n),
              gradient,
              memory.zeros(DType.F32, n),
              memory.zeros(DType.F32, n),
              i % 2 == 0 ? 0.01f : 0));
    }
    for (int step = 1; step <= 3; step++) {
      for (int i = 0; i < lengths.length; i++) {
        float[] values = random.wide(lengths[i], 4);
        for (float value : values) {
          largest[i] = Math.max(largest[i], Math.abs(value));
        }
        gradients.get(i).copyFrom(values);
      }
      AdamW.step(memory.pack(), new AdamW.Options(2e-3, 0.9, 0.999, 1e-8), step, 0.5f, slots);
    }
    // Every step of the recurrence rounds a handful of f32 results; m can cancel, so its error is
    // relative to what went in.
    Tolerance tolerance =
        Tolerance.function(24).plus(Tolerance.ofLargest(8 * Tolerance.roundoff(DType.F32)));
    for (int i = 0; i < slots.size(); i++) {
      outputs.add("parameter", slots.get(i).parameter(), tolerance.ofTerms(0.1));
      // (1 - b1) times the gradient, which is scaled by 0.5.
      outputs.add("firstMoment", slots.get(i).firstMoment(), tolerance.ofTerms(0.05 * largest[i]));
      outputs.add("secondMoment", slots.get(i).secondMoment(), tolerance);
    }
  }

  private static void norm(int[] lengths, DeviceMemory memory, Outputs outputs) {
    Randoms random = new Randoms(SEED + 1);
    List<DeviceTensor> gradients = new ArrayList<>();
    for (int n : lengths) {
      gradients.add(memory.of(DType.F32, random.wide(n, 6), n));
    }
    // Summed in f64: two packs differ far below an f32 roundoff, which is what the comparison is
    // made in.
    outputs.add("norm", GradientNorm.compute(memory.pack(), gradients), Tolerance.function(1));
  }
}
