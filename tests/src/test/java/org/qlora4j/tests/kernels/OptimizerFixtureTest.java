// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Arrays;
import java.util.List;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Tolerance;

/**
 * Twenty steps of 32-bit AdamW against bitsandbytes, also with a NaN among the gradients. The 8-bit
 * files belong to an operator that does not exist yet, except for the small tensor that keeps
 * 32-bit states; the bf16 parameter is no case of ours, masters are f32.
 */
class OptimizerFixtureTest extends FixtureTest {
  OptimizerFixtureTest() {
    super("optim");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.names().stream()
        .filter(name -> name.startsWith("adamw32_") || name.endsWith("keeps_32bit_states"))
        .filter(name -> !name.contains("bf16_param"))
        .toList();
  }

  @Override
  protected List<String> operators(String name) {
    return List.of("adamw");
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    JsonNode entry = fixtures.index().path(name);
    try (SafetensorsFile file = fixtures.open(name)) {
      TensorSource start = file.find("p0");
      int n = Math.toIntExact(file.tensor("state1").elements());
      float[] parameters;
      if (start != null) {
        parameters = start.toFloats();
      } else {
        // The file with a NaN starts from the same parameters as the one without.
        try (SafetensorsFile plain = fixtures.open("adamw32_" + n)) {
          parameters = plain.tensor("p0").toFloats();
        }
      }
      float[] gradients;
      try (SafetensorsFile all = fixtures.open("grads_" + n)) {
        gradients = all.tensor("grads").toFloats();
      }
      if (name.endsWith("nan_grad")) {
        gradients[2 * n + 300] = Float.NaN;
        gradients[2 * n + n - 3] = Float.NaN;
      }
      steps(file, name, entry, parameters, gradients, n, memory);
    }
  }

  private void steps(
      SafetensorsFile file,
      String name,
      JsonNode entry,
      float[] parameters,
      float[] gradients,
      int n,
      DeviceMemory memory) {
    AdamW.Options options =
        new AdamW.Options(
            entry.path("lr").asDouble(),
            entry.path("beta1").asDouble(),
            entry.path("beta2").asDouble(),
            entry.path("eps").asDouble());
    float decay = (float) entry.path("weight_decay").asDouble();
    DeviceTensor parameter = memory.of(DType.F32, parameters, n);
    DeviceTensor gradient = memory.empty(DType.F32, n);
    DeviceTensor first = memory.zeros(DType.F32, n);
    DeviceTensor second = memory.zeros(DType.F32, n);
    int steps = entry.path("steps").asInt();
    for (int step = 1; step <= steps; step++) {
      gradient.copyFrom(Arrays.copyOfRange(gradients, (step - 1) * n, step * n));
      AdamW.step(
          memory.pack(),
          options,
          step,
          1,
          List.of(new AdamW.Slot(parameter, gradient, first, second, decay)));
      TensorSource expected = file.find("p_after_step" + step);
      if (expected != null) {
        compareAbsolute(memory, name, "parameter", expected.toFloats(), parameter);
      }
    }
    compareAbsolute(memory, name, "first moment", file.tensor("state1").toFloats(), first);
    compareAbsolute(memory, name, "second moment", file.tensor("state2").toFloats(), second);
  }

  /**
   * The fixtures' number is 3e-6 absolute; the states, which are larger, get the same share of
   * their largest magnitude.
   */
  private void compareAbsolute(
      DeviceMemory memory, String name, String output, float[] expected, DeviceTensor actual) {
    double largest = 1;
    for (float value : expected) {
      if (Float.isFinite(value)) {
        largest = Math.max(largest, Math.abs(value));
      }
    }
    double allowed = output.equals("parameter") ? 3e-6 / largest : 3e-6;
    compare(memory, name, output, expected, actual, Tolerance.ofLargest(allowed));
  }
}
