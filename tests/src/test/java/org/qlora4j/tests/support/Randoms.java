// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.util.SplittableRandom;

/** Test data from a fixed seed. The same seed gives the same data on every machine. */
public final class Randoms {
  private final SplittableRandom random;

  /** Data from {@code seed}. */
  public Randoms(long seed) {
    random = new SplittableRandom(seed);
  }

  /** Normally distributed values. */
  public float[] normal(long count, double deviation) {
    float[] values = new float[Math.toIntExact(count)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (gaussian() * deviation);
    }
    return values;
  }

  /** Uniformly distributed values. */
  public float[] uniform(long count, double from, double to) {
    float[] values = new float[Math.toIntExact(count)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (from + (to - from) * random.nextDouble());
    }
    return values;
  }

  /** Values spread over many orders of magnitude, both signs, with some zeros. */
  public float[] wide(long count, double decades) {
    float[] values = new float[Math.toIntExact(count)];
    for (int i = 0; i < values.length; i++) {
      double magnitude = Math.pow(10, (random.nextDouble() - 0.5) * decades);
      values[i] = random.nextInt(16) == 0 ? 0 : (float) (gaussian() * magnitude);
    }
    return values;
  }

  /** Uniform bytes. */
  public byte[] bytes(long count) {
    byte[] values = new byte[Math.toIntExact(count)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (byte) random.nextInt(256);
    }
    return values;
  }

  /** Uniform in [0, bound). */
  public int below(int bound) {
    return random.nextInt(bound);
  }

  private double gaussian() {
    // Box and Muller, 1958; SplittableRandom has no Gaussian of its own that is fixed across Java
    // versions.
    double u = 1 - random.nextDouble();
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * random.nextDouble());
  }
}
