// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.build;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.fail;

import java.io.IOException;
import java.io.InputStream;
import java.util.List;
import java.util.Properties;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;

/**
 * The libraries that are loaded were built from the sources as they lie in the tree now,
 * uncommitted edits included. Otherwise every other test of a kernel would be about an older
 * kernel.
 */
class NativeBuildTest {
  private static final Pattern SOURCES = Pattern.compile("\\bsources=([0-9a-f]{16})\\b");

  @Test
  void loaderIsBuiltFromTheTree() throws IOException {
    assertEquals(ProjectTree.nativeSources(), sources(KernelPack.loaderBuildInfo()));
  }

  @TestFactory
  List<DynamicTest> packsAreBuiltFromTheTree() throws IOException {
    String expected = ProjectTree.nativeSources();
    List<String> shipped = KernelPack.shipped();
    assertFalse(shipped.isEmpty(), "no pack is on the class path");
    return shipped.stream()
        .map(name -> DynamicTest.dynamicTest(name, () -> checkPack(name, expected)))
        .toList();
  }

  private static void checkPack(String name, String expected) {
    try (KernelPack pack = KernelPack.open(PackOptions.defaults().withPack(name))) {
      assertEquals(name, pack.name());
      assertEquals(expected, sources(pack.buildInfo()), pack.buildInfo());
    } catch (UnsupportedOperationException e) {
      // Also an answer of the current library; the resource below covers its sources.
      Assumptions.abort(e.getMessage());
    }
  }

  @Test
  void packResourcesAreBuiltFromTheTree() throws IOException {
    Properties properties = new Properties();
    try (InputStream in =
        NativeBuildTest.class.getResourceAsStream(
            "/org/qlora4j/packs/linux-x86_64/build.properties")) {
      assertNotNull(in, "build.properties is missing beside the packs");
      properties.load(in);
    }
    assertEquals(ProjectTree.nativeSources(), properties.getProperty("sources"));
  }

  private static String sources(String buildInfo) {
    Matcher matcher = SOURCES.matcher(buildInfo);
    return matcher.find() ? matcher.group(1) : fail("no sources=... in \"" + buildInfo + "\"");
  }
}
