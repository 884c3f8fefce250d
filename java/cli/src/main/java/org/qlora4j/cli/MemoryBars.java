// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.qlora4j.common.Text;
import org.qlora4j.train.MemoryPlan;

/** Memory plans as bars of letters, all of one scale. */
final class MemoryBars {
  private static final int LONGEST = 100;

  private MemoryBars() {}

  /** A line that explains the letters, and a line for each method. */
  static List<String> of(Map<String, MemoryPlan> plans) {
    long largest = plans.values().stream().mapToLong(MemoryPlan::total).max().orElse(0);
    long unit = 1 << 20;
    while (unit * LONGEST < largest) {
      unit *= 2;
    }
    int longest = plans.keySet().stream().mapToInt(String::length).max().orElse(1);
    List<String> lines = new ArrayList<>();
    lines.add(
        "a letter is "
            + Text.bytes(unit)
            + ": W weights, A adapters, G gradients, O optimizer states, S what a step holds, J Java and the rest");
    for (Map.Entry<String, MemoryPlan> plan : plans.entrySet()) {
      lines.add(
          String.format(
              "%-" + longest + "s %s %s",
              plan.getKey(),
              bar(plan.getValue(), unit),
              Text.bytes(plan.getValue().total())));
    }
    return lines;
  }

  private static String bar(MemoryPlan plan, long unit) {
    long step = plan.activations() + plan.workspace();
    long rest =
        plan.total()
            - plan.weights()
            - plan.adapters()
            - plan.gradients()
            - plan.optimizerStates()
            - step;
    long[] bytes = {
      plan.weights(), plan.adapters(), plan.gradients(), plan.optimizerStates(), step, rest
    };
    StringBuilder bar = new StringBuilder();
    long sum = 0;
    for (int i = 0; i < bytes.length; i++) {
      sum += bytes[i];
      // Ends are rounded and not lengths, so that the bar is as long as its total.
      while (bar.length() * unit + unit / 2 < sum) {
        bar.append("WAGOSJ".charAt(i));
      }
    }
    return bar.toString();
  }
}
