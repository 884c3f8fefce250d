// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/**
 * What an axis measures.
 *
 * @param label "held-out loss"
 * @param unit "nats per token"; empty where there is none
 * @param scale how values lie along it
 * @param fromZero whether a linear axis begins at 0 however far the values are from it
 */
public record Axis(String label, String unit, Scale scale, boolean fromZero) {
  /** How values lie along an axis. */
  public enum Scale {
    /** Equal steps. */
    LINEAR,
    /** Equal factors; values must be above 0, and others are left out. */
    LOGARITHMIC
  }

  /** A linear axis around the values. */
  public static Axis of(String label, String unit) {
    return new Axis(label, unit, Scale.LINEAR, false);
  }

  /** A linear axis that begins at 0. */
  public static Axis fromZero(String label, String unit) {
    return new Axis(label, unit, Scale.LINEAR, true);
  }

  /** A logarithmic axis. */
  public static Axis logarithmic(String label, String unit) {
    return new Axis(label, unit, Scale.LOGARITHMIC, false);
  }

  /** "held-out loss (nats per token)". */
  public String title() {
    return unit.isEmpty() ? label : label + " (" + unit + ")";
  }

  boolean shows(double value) {
    return Double.isFinite(value) && (scale == Scale.LINEAR || value > 0);
  }
}
