// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.AdamW8Bit;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Tolerance;

/**
 * Twenty steps of AdamW against bitsandbytes, with moments in 32 bits and in 8, also with a NaN
 * among the gradients. bitsandbytes keeps 32-bit states of small tensors. The bf16 parameter is no
 * case of ours, masters are f32; nor are the emulated rules of its CUDA kernel, which takes the
 * even one of two codes that are equally near.
 */
class OptimizerFixtureTest extends FixtureTest {
  OptimizerFixtureTest() {
    super("optim");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.names().stream()
        .filter(
            name ->
                name.startsWith("adamw32_")
                    || name.endsWith("keeps_32bit_states")
                    || isExact8Bit(name)
                    || isLibrary8BitNan(name))
        .filter(name -> !name.contains("bf16_param"))
        .toList();
  }

  @Override
  protected List<String> operators(String name) {
    return List.of(isExact8Bit(name) || isLibrary8BitNan(name) ? "adamw_8bit" : "adamw");
  }

  /** Exact nearest codes, ties to the lower index: our rule. */
  private static boolean isExact8Bit(String name) {
    return name.startsWith("adamw8bit_exact_");
  }

  /**
   * Codes by the library's table of 65,536 points, a NaN among the gradients: its codes are not
   * ours, but what a NaN does is.
   */
  private static boolean isLibrary8BitNan(String name) {
    return name.startsWith("adamw8bit_cpu_library_") && name.endsWith("nan_grad");
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
      if (file.find("absmax1") != null) {
        steps8Bit(file, name, entry, parameters, gradients, n, memory);
      } else {
        steps(file, name, entry, parameters, gradients, n, memory);
      }
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
    AdamW.Options options = options(entry);
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

  private static AdamW.Options options(JsonNode entry) {
    return new AdamW.Options(
        entry.path("lr").asDouble(),
        entry.path("beta1").asDouble(),
        entry.path("beta2").asDouble(),
        entry.path("eps").asDouble());
  }

  private void steps8Bit(
      SafetensorsFile file,
      String name,
      JsonNode entry,
      float[] parameters,
      float[] gradients,
      int n,
      DeviceMemory memory) {
    int blockSize = entry.path("blocksize").asInt();
    long blocks = Quantization4Bit.blocks(n, blockSize);
    DeviceTensor parameter = memory.of(DType.F32, parameters, n);
    DeviceTensor gradient = memory.empty(DType.F32, n);
    AdamW8Bit.Moment[] moments = new AdamW8Bit.Moment[2];
    for (int m = 0; m < 2; m++) {
      moments[m] = new AdamW8Bit.Moment(memory.zeros(DType.U8, n), memory.zeros(DType.F32, blocks));
    }
    float decay = (float) entry.path("weight_decay").asDouble();
    AdamW8Bit.Slot slot = new AdamW8Bit.Slot(parameter, gradient, moments[0], moments[1], decay);
    String where = memory.pack().name() + ", " + name;
    int steps = entry.path("steps").asInt();
    for (int step = 1; step <= steps; step++) {
      gradient.copyFrom(Arrays.copyOfRange(gradients, (step - 1) * n, step * n));
      AdamW8Bit.step(memory.pack(), options(entry), blockSize, step, 1, List.of(slot));
      TensorSource expected = file.find("p_after_step" + step);
      if (expected != null) {
        checkParameters(where, expected.toFloats(), parameter.toFloats(), isExact8Bit(name));
      }
    }
    for (int m = 0; m < 2; m++) {
      String suffix = Integer.toString(m + 1);
      compare(
          memory,
          name,
          "absmax" + suffix,
          file.tensor("absmax" + suffix).toFloats(),
          moments[m].absmax(),
          new Tolerance(1e-5, 0, "fixture: 1e-5 of the element"));
      checkCodes(where, codes(file, suffix), moments[m].codes().toBytes(), gradients, n, name);
    }
  }

  /**
   * The fixtures' number is 1e-5 absolute for 99.5 % of the elements; where a code of a second
   * moment fell to 0, a parameter may jump. NaN must meet NaN in any case.
   */
  private static void checkParameters(
      String where, float[] expected, float[] actual, boolean values) {
    int close = 0;
    for (int i = 0; i < expected.length; i++) {
      assertEquals(Float.isNaN(expected[i]), Float.isNaN(actual[i]), where + " parameter " + i);
      if (Float.isNaN(expected[i]) || Math.abs(expected[i] - actual[i]) <= 1e-5f) {
        close++;
      }
    }
    if (values) {
      assertAtLeast(where + ": parameters within 1e-5", close, 0.995 * expected.length);
    }
  }

  /** 99.5 % of the codes equal, the rest off by one. */
  private static void checkCodes(
      String where, byte[] expected, byte[] actual, float[] gradients, int n, String name) {
    int equal = 0;
    int compared = 0;
    for (int i = 0; i < n; i++) {
      // Of the library's codes, those of the elements that were NaN: they decayed from code 0.
      if (isLibrary8BitNan(name) && !Float.isNaN(gradients[2 * n + i])) {
        continue;
      }
      int difference = (expected[i] & 0xff) - (actual[i] & 0xff);
      assertTrue(Math.abs(difference) <= 1, where + " code " + i + " is off by " + difference);
      equal += difference == 0 ? 1 : 0;
      compared++;
    }
    if (isExact8Bit(name)) {
      assertAtLeast(where + ": equal codes", equal, 0.995 * n);
    } else {
      assertEquals(2, compared, where + ": elements that were NaN");
    }
  }

  private static byte[] codes(SafetensorsFile file, String suffix) {
    TensorSource source = file.tensor("state" + suffix);
    byte[] codes = new byte[Math.toIntExact(source.elements())];
    source.read(0, ByteBuffer.wrap(codes));
    return codes;
  }

  private static void assertAtLeast(String what, int found, double least) {
    assertTrue(found >= least, () -> what + ": expected at least " + least + ", found " + found);
  }
}
