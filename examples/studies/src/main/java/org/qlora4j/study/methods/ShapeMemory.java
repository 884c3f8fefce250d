// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.methods;

import java.util.Map;
import org.qlora4j.study.ShapeMeasurement;

/**
 * Memory at another model's shape.
 *
 * @param shape which
 * @param planned by method, in the study's order
 * @param measured by method, of those that were run
 */
record ShapeMemory(
    MethodStudyConfig.Shape shape,
    Map<String, Planned> planned,
    Map<String, ShapeMeasurement.Used> measured) {

  /**
   * What the memory planner counts.
   *
   * @param parts bytes by what they hold
   */
  record Planned(Map<String, Long> parts) {
    long total() {
      return parts.values().stream().mapToLong(Long::longValue).sum();
    }
  }
}
