// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.qlora4j.common.InputException;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Text;

/** What messages are made of. */
class TextTest {
  @Test
  void messagesAreOneLineWhateverIsInThem() {
    assertEquals("a\\nb\\tc\\u001b[0m\\u2028", Text.oneLine("a\nb\tc\u001b[0m\u2028"));
    assertEquals("x\\ry", new InputException("x\ry").getMessage());
    assertEquals("'null'", Text.quote(null));
    String quoted = Text.quote("😀".repeat(200));
    assertTrue(quoted.endsWith("...'") && quoted.length() < 130, quoted);
    assertTrue(
        Character.isLowSurrogate(quoted.charAt(quoted.length() - 5)),
        "no half character at the cut");
  }

  @Test
  void sizesAndTimesForPeople() {
    assertEquals("0 B", Text.bytes(0));
    assertEquals("1023 B", Text.bytes(1023));
    assertEquals("1.00 KiB", Text.bytes(1024));
    assertEquals("10.5 MiB", Text.bytes(11_010_048));
    assertEquals("8.00 EiB", Text.bytes(Long.MAX_VALUE));
    assertEquals("0 s", Text.duration(0.2));
    assertEquals("1 min 05 s", Text.duration(65));
    assertEquals("2 h 07 min", Text.duration(2 * 3600 + 7 * 60 + 20));
    assertEquals("unknown", Text.duration(Double.NaN));
  }

  @Test
  void theNearestNameIsOfferedOnlyWhenItIsNear() {
    List<String> names = List.of("q_proj", "k_proj", "query_key_value");
    assertEquals("q_proj", Text.nearest("qproj", names));
    assertEquals("q_proj", Text.nearest("Q_PROJ", names));
    assertEquals("query_key_value", Text.nearest("qeury_key_valeu", names));
    assertNull(Text.nearest("dense", names));
    assertNull(Text.nearest("a", List.of()));
  }

  @Test
  void memoryIsThatOfThisProcess() {
    MemoryUse use = MemoryUse.now();
    if (System.getProperty("os.name").startsWith("Linux")) {
      assertTrue(
          use.residentBytes() > 10 << 20 && use.peakBytes() >= use.residentBytes(), use.toString());
    }
  }
}
