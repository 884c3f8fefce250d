// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.function.Executable;
import org.qlora4j.common.InputException;

/** Checks on errors that a user can fix. */
public final class Inputs {
  private Inputs() {}

  /** The action fails with one line that holds every one of `parts`; the line is returned. */
  public static String assertRefused(Executable action, String... parts) {
    String message = String.valueOf(assertThrows(InputException.class, action).getMessage());
    assertEquals(1, message.lines().count(), "one line: " + message);
    for (String part : parts) {
      assertTrue(message.contains(part), () -> "expected \"" + part + "\" in: " + message);
    }
    return message;
  }
}
