// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceException;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.FatalDeviceException;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.OutOfDeviceMemoryException;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.Weight;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.ParityTest;

/**
 * The parity suite finds the defects of a pack that was built with some, finds nothing where that
 * pack borrows from the reference, and every status becomes the exception that is documented for
 * it.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class BrokenPackTest {
  private final KernelPack pack =
      KernelPack.open(PackOptions.defaults().withPack("broken").withBasePack("reference"));
  private final KernelPack alone = KernelPack.open(PackOptions.defaults().withPack("broken"));

  @AfterAll
  void close() {
    pack.close();
    alone.close();
  }

  /** Cases of a parity test whose names start and end so. */
  private static List<ParityTest.Case> cases(ParityTest test, String start, String end) {
    List<ParityTest.Case> cases =
        test.allCases().stream()
            .filter(c -> c.name().startsWith(start) && c.name().endsWith(end))
            .toList();
    assertFalse(cases.isEmpty(), "no case " + start + " ... " + end);
    return cases;
  }

  @Test
  void unweightedColumnIsFound() {
    RmsNormParityTest test = new RmsNormParityTest();
    for (ParityTest.Case c : cases(test, "forward F32 weight F32", "residual 0")) {
      if (c.name().contains("1+w")) {
        assertThrows(UnsupportedOperationException.class, () -> test.check(pack, c), c.name());
      } else if (c.work() == 0) {
        test.check(pack, c);
      } else {
        AssertionError error =
            assertThrows(AssertionError.class, () -> test.check(pack, c), c.name());
        assertTrue(String.valueOf(error.getMessage()).contains("y: worst at"), error.getMessage());
      }
    }
  }

  @Test
  void forgottenTailIsFoundExactlyWhereThereIsOne() {
    LinearParityTest test = new LinearParityTest();
    Pattern columns = Pattern.compile(" k=(\\d+)");
    int found = 0;
    for (ParityTest.Case c : cases(test, "forward F32 DENSE_F32", "")) {
      Matcher matcher = columns.matcher(c.name());
      if (c.name().contains("Branch") || c.name().contains("bias") || !matcher.find()) {
        continue;
      }
      if (c.work() > 0 && Integer.parseInt(matcher.group(1)) % 8 != 0) {
        assertThrows(AssertionError.class, () -> test.check(alone, c), c.name());
        found++;
      } else {
        test.check(alone, c);
      }
    }
    assertTrue(found >= 5, "only " + found + " shapes with a tail");
  }

  @Test
  void writeBehindTheOutputIsFound() {
    LayerNormParityTest test = new LayerNormParityTest();
    for (ParityTest.Case c : cases(test, "forward F32", "residual 0")) {
      AssertionError error =
          assertThrows(AssertionError.class, () -> test.check(pack, c), c.name());
      assertTrue(String.valueOf(error.getMessage()).contains("after the end"), error.getMessage());
    }
  }

  @Test
  void borrowedOperatorsPass() {
    RmsNormParityTest test = new RmsNormParityTest();
    for (ParityTest.Case c : cases(test, "backward F32 weight F32 [5, 64]", "")) {
      test.check(pack, c);
    }
    assertTrue(pack.supports("rotary"));
  }

  /**
   * The linear operators share the rounding of what they hand to each other, so a part of them is
   * not enough.
   */
  @Test
  void linearOperatorsAreBorrowedAsOneGroup() {
    LinearParityTest test = new LinearParityTest();
    for (ParityTest.Case c : cases(test, "forward F32 DENSE_F32 m=2 n=17 k=33", "")) {
      test.check(pack, c);
    }
    assertTrue(pack.supports("linear_backward_input"));
    assertTrue(alone.supports("linear_forward"));
    assertFalse(alone.supports("linear_backward_input"));
    try (DeviceMemory memory = new DeviceMemory(alone)) {
      Weight weight = Weight.dense(memory.zeros(DType.F32, 3, 4));
      DeviceTensor dy = memory.zeros(DType.F32, 2, 3);
      DeviceTensor dx = memory.zeros(DType.F32, 2, 4);
      UnsupportedOperationException error =
          assertThrows(
              UnsupportedOperationException.class,
              () -> Linear.backwardInput(alone, dy, weight, null, dx, false, null));
      assertTrue(
          String.valueOf(error.getMessage()).contains("linear_backward_input"), error.getMessage());
    }
  }

  @Test
  void statusesBecomeExceptions() {
    assertEquals("one row", text(UnsupportedOperationException.class, 1));
    assertEquals("two rows", text(OutOfDeviceMemoryException.class, 2));
    assertEquals("three rows, code=2", text(DeviceException.class, 3));
    assertEquals("four rows, cudaErrorLaunchFailure (719)", text(FatalDeviceException.class, 4));
    assertEquals("five rows", text(IllegalStateException.class, 5));
    assertEquals("7 rows", text(IllegalArgumentException.class, 7));
    assertEquals(2, assertThrows(DeviceException.class, () -> activate(3)).code());
    assertEquals(719, assertThrows(FatalDeviceException.class, () -> activate(4)).code());
    // A pack that gives no reason is not blamed with the reason of the call before.
    DeviceException silent = assertThrows(DeviceException.class, () -> activate(6));
    assertEquals(-1, silent.code());
    assertFalse(String.valueOf(silent.getMessage()).contains("rows"), silent.getMessage());
  }

  private <T extends RuntimeException> String text(Class<T> type, int rows) {
    T error = assertThrows(type, () -> activate(rows));
    assertEquals(type, error.getClass());
    String message = String.valueOf(error.getMessage());
    Matcher matcher =
        Pattern.compile("broken: (.*?) \\(broken_pack\\.cpp:\\d+\\)").matcher(message);
    assertTrue(matcher.find(), message);
    return matcher.group(1);
  }

  private void activate(int rows) {
    try (DeviceMemory memory = new DeviceMemory(pack)) {
      DeviceTensor x = memory.zeros(DType.F32, rows, 8);
      Activation.forward(pack, Activation.Kind.SILU, x, null, memory.zeros(DType.F32, rows, 8));
    }
  }
}
