// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.report;

/** A picture of numbers. */
public sealed interface Chart extends Block permits LineChart, BarChart, ScatterChart, Histogram {
  /** What it shows, on one line. */
  String title();
}
