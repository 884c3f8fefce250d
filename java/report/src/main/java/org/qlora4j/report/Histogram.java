// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

import java.util.ArrayList;
import java.util.List;

/**
 * How often values fall into each of a row of equally wide bins, as a share of their sample, so
 * that samples of different size can be compared.
 */
public final class Histogram implements Chart {
  private final String title;
  private final Axis x;
  private final List<Sample> samples;
  private final double[] edges;
  private final List<long[]> counts = new ArrayList<>();

  /**
   * Values of one kind.
   *
   * @param name its name in the legend
   * @param values finite values
   */
  public record Sample(String name, List<Double> values) {
    /** Keeps a copy of the list. */
    public Sample {
      values = List.copyOf(values);
    }
  }

  /**
   * Puts the values of all samples into the same bins, whose edges are round numbers.
   *
   * @param bins about how many bins; at least 1
   */
  public Histogram(String title, Axis x, List<Sample> samples, int bins) {
    this.title = title;
    this.x = x;
    this.samples = List.copyOf(samples);
    double low = Double.POSITIVE_INFINITY;
    double high = Double.NEGATIVE_INFINITY;
    for (Sample sample : samples) {
      for (double value : sample.values()) {
        if (!Double.isFinite(value)) {
          throw new IllegalArgumentException(title + ": a histogram cannot show " + value);
        }
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    if (low > high) {
      low = 0;
      high = 1;
    }
    double step = Ticks.roundStep(Math.max(high - low, 1e-9) / Math.max(1, bins));
    double first = Math.floor(low / step) * step;
    int n = (int) Math.floor((high - first) / step) + 1;
    edges = new double[n + 1];
    for (int i = 0; i <= n; i++) {
      edges[i] = first + i * step;
    }
    for (Sample sample : samples) {
      long[] count = new long[n];
      for (double value : sample.values()) {
        count[Math.max(0, Math.min(n - 1, (int) Math.floor((value - first) / step)))]++;
      }
      counts.add(count);
    }
  }

  @Override
  public String title() {
    return title;
  }

  /** What the values measure. */
  public Axis x() {
    return x;
  }

  /** The samples. */
  public List<Sample> samples() {
    return samples;
  }

  /** Number of bins. */
  public int bins() {
    return edges.length - 1;
  }

  /** Where a bin begins; bin {@link #bins()} would begin where the last one ends. */
  public double edge(int bin) {
    return edges[bin];
  }

  /** How many values of a sample fall into a bin. */
  public long count(int sample, int bin) {
    return counts.get(sample)[bin];
  }

  /** The share of a sample's values in a bin, in percent; 0 for an empty sample. */
  public double percent(int sample, int bin) {
    int size = samples.get(sample).values().size();
    return size == 0 ? 0 : 100.0 * count(sample, bin) / size;
  }
}
