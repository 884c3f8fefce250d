// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.Json;
import org.qlora4j.gguf.GgufFile;
import org.qlora4j.gguf.GgufType;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.FixtureFiles;

/** The command {@code export}. */
class ExportTest {
  @Test
  void writesAFileAndSaysWhereLlamaCppDiffers(@TempDir Path folder) {
    Path model = FixtureFiles.project("examples/model");
    Path out = folder.resolve("deep/model.gguf");
    Path json = folder.resolve("figures.json");
    Ran ran = assertDone(run("export", model, out, "--type", "q8_0", "--json", json));
    assertTrue(ran.out().contains("38 tensors in Q8_0"), ran.out());
    assertTrue(ran.err().contains("note: the tokenizer"), ran.err());
    ObjectNode figures = Json.readObject(json, 1 << 20);
    assertEquals(2, figures.path("notes").size());
    try (GgufFile file = GgufFile.open(out)) {
      assertEquals(GgufType.Q8_0, file.tensor("blk.3.ffn_down.weight").type());
    }
    assertFixable(run("export", model, folder.resolve("model.bin")), "ends in .gguf");
    assertFixable(run("export", folder, folder.resolve("no.gguf")), "config.json");
    assertFixable(run("export", model, folder.resolve("no.gguf"), "--type", "q5_k"), "q5_k");
    assertFalse(Files.exists(folder.resolve("no.gguf")));
  }
}
