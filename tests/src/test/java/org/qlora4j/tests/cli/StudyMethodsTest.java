// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.common.Json;
import org.qlora4j.tests.support.Browser;
import org.qlora4j.tests.support.CommandRuns;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.ReportPage;

/** {@code study methods}: figures, report, resuming, and what a user can get wrong. */
class StudyMethodsTest {
  private final Path folder;
  private final Path out;

  StudyMethodsTest(@TempDir Path folder) {
    this.folder = folder;
    this.out = folder.resolve("out");
  }

  private Path config(String more, String methods) throws IOException {
    return Files.writeString(
        folder.resolve("study.yaml"),
        """
        study: methods
        output_dir: %s
        steps: 2
        more_steps: 4
        eval_every: 2
        training:
          model: %s
          train_file: %s
          val_set_size: 4
          sequence_length: 48
          per_device_train_batch_size: 2
          learning_rate: 2e-3
          lora_r: 4
        %smethods:
        %s"""
            .formatted(
                out,
                FixtureFiles.project("examples/model"),
                FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                more,
                methods));
  }

  private static final String FULL = "- {name: Full FP32, method: full, compute: float32}\n";
  private static final String INT8 = "- {name: LoRA <INT8>, quantization: int8}\n";

  private static ObjectNode json(Path file) {
    return Json.readObject(file, 1 << 24);
  }

  private Path trained(String slug) {
    return out.resolve("methods").resolve(slug).resolve("train.json");
  }

  @Test
  void comparesPlansReportsAndReuses() throws Exception {
    Path config =
        config(
            """
            learning_rates: [1e-3, 4e-3]
            search_steps: 2
            memory_shape:
              name: Polyglot-Ko 1.3B
              config: %s
              sequence_length: 64
            """
                .formatted(FixtureFiles.project("examples/shapes/polyglot-ko-1.3b.json")),
            FULL + INT8);
    String printed = assertDone(run("study", "methods", config)).out();
    assertTrue(printed.contains("report " + out.resolve("report.html")), printed);

    ObjectNode full = json(trained("full-fp32"));
    ObjectNode int8 = json(trained("lora-int8"));
    for (ObjectNode result : List.of(full, int8)) {
      assertEquals(3, result.path("curve").size(), "before, equal steps, more steps");
      assertTrue(
          result.path("curve").get(2).path("loss").asDouble()
              < result.path("curve").get(0).path("loss").asDouble(),
          result.toString());
      assertTrue(result.path("peak_bytes").asLong() > 50 << 20, "a process of its own");
      assertTrue(result.path("tokens_per_s").asDouble() > 0);
    }
    assertTrue(
        full.path("counted_bytes").path("optimizer states").asLong()
            > 10 * int8.path("counted_bytes").path("optimizer states").asLong());
    assertTrue(full.path("saved_bytes").asLong() > 10 * int8.path("saved_bytes").asLong());

    ObjectNode report = json(out.resolve("report.json"));
    JsonNode losses = ReportPage.rows(report, "Held-out loss and error");
    assertEquals(2, losses.size());
    double expected =
        100
            * (int8.path("curve").get(1).path("loss").asDouble()
                    / full.path("curve").get(1).path("loss").asDouble()
                - 1);
    assertEquals(expected, losses.get(1).get(7).asDouble(), 1e-9, "error at equal steps");
    JsonNode shape = ReportPage.rows(report, "Memory at the shape of Polyglot-Ko 1.3B");
    assertEquals("LoRA <INT8>", shape.get(1).get(0).asText());
    assertTrue(shape.get(0).get(1).asDouble() > 21, "16 bytes for each of 1.3 billion parameters");
    assertTrue(
        shape.get(1).get(2).asDouble() > 82.19 && shape.get(1).get(3).asText().equals("yes"));
    assertTrue(shape.get(1).get(4).isNull(), "nothing was measured");
    String markdown = Files.readString(out.resolve("report.md"));
    assertTrue(markdown.contains("82.19") && markdown.contains("&lt;INT8\\>"), markdown);

    // Again: nothing runs. One result away: one method runs, and finds the same.
    Files.delete(trained("lora-int8"));
    Files.setLastModifiedTime(trained("full-fp32"), FileTime.fromMillis(0));
    assertDone(run("study", "methods", config));
    assertEquals(0, Files.getLastModifiedTime(trained("full-fp32")).toMillis(), "was run again");
    assertEquals(
        int8.path("curve").get(2).path("loss"),
        json(trained("lora-int8")).path("curve").get(2).path("loss"));

    try (Browser browser = Browser.start()) {
      ReportPage.check(browser, out.resolve("report.html"), 5, 5);
    }
  }

  /** A study that is killed takes its child with it, and goes on from the checkpoint. */
  @Test
  void goesOnWhereItWasKilled() throws Exception {
    Path config = config("more_steps: 60\neval_every: 2\n", FULL).toAbsolutePath();
    String text = Files.readString(config).replaceFirst("more_steps: 4\neval_every: 2\n", "");
    Files.writeString(config, text);
    Process study =
        new ProcessBuilder(CommandRuns.command("study", "methods", config))
            .redirectErrorStream(true)
            .redirectOutput(folder.resolve("log").toFile())
            .start();
    Path checkpoints = out.resolve("methods/full-fp32/run/checkpoints");
    List<ProcessHandle> children = List.of();
    for (long end = System.nanoTime() + 60_000_000_000L; System.nanoTime() < end; ) {
      if (study.isAlive()) {
        children = study.descendants().toList();
      }
      String[] saved = checkpoints.toFile().list((d, name) -> name.startsWith("checkpoint-"));
      if ((saved != null && saved.length > 0) || !study.isAlive()) {
        break;
      }
      Thread.sleep(10);
    }
    assertTrue(study.isAlive(), () -> "ended: " + read(folder.resolve("log")));
    study.destroyForcibly().waitFor();
    assertEquals(1, children.size());
    children.get(0).onExit().get(10, TimeUnit.SECONDS);
    assertFalse(Files.exists(trained("full-fp32")));
    int reached = Files.readAllLines(out.resolve("methods/full-fp32/run/metrics.jsonl")).size();
    assertTrue(reached >= 3, "lines of metrics: " + reached);

    ObjectNode done = finished(config);
    assertTrue(done.path("resumed").asBoolean(), done.toString());
    assertEquals(31, done.path("curve").size());
  }

  private ObjectNode finished(Path config) {
    assertDone(run("study", "methods", config));
    return json(trained("full-fp32"));
  }

  private static String read(Path file) {
    try {
      return Files.readString(file);
    } catch (IOException e) {
      return e.toString();
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "stpes: 3 | unknown key 'stpes'; did you mean steps?",
        "more_steps: 5 | eval_every: expected a divisor of steps 2 and more_steps 5",
        "more_steps: 1 | more_steps: expected an integer of 2 to",
        "learning_rates: [fast] | learning_rates: expected numbers such as 1e-3",
        "study: generation | study: expected methods, found 'generation'",
        "methods: [{name: A, method: lora}] | expected method: full first",
        "methods: [{name: A, method: full, max_steps: 3}] | max_steps is decided by the study",
        "methods: [{name: A, method: full, lora_rnak: 3}] | unknown key 'lora_rnak'",
        "methods: [{name: A, method: full, stored_as: int8}] | stored_as: expected float32",
        "methods: [{method: full}] | name: expected a text, found no such key",
        "methods: [] | methods: expected a list with at least one entry",
        "training.val_set_size: 0 | expected eval_file or val_set_size",
        "training.model: nowhere | nowhere",
        "training.train_file: nothing.jsonl | no such file: nothing.jsonl",
        "memory_shape: {config: none.json} | none.json",
        "memory_shape: {config: ROOT/examples/shapes/polyglot-ko-1.3b.json, measure: [B]} | measure: expected true, false, or names",
      })
  void oneLineForWhatAUserCanMend(String setting, String part) throws IOException {
    Path config = config("", FULL);
    String[] keyAndValue =
        setting.replace("ROOT", FixtureFiles.project("").toString()).split(": ", 2);
    assertFixable(
        run("study", "methods", config, "--set", keyAndValue[0] + "=" + keyAndValue[1]), part);
    assertFalse(Files.exists(out), "nothing was written");
  }

  @Test
  void whatAChildRefusesIsOneLineToo() throws IOException {
    Path config = config("", FULL + INT8);
    assertFixable(
        run("study", "methods", config, "--set", "training.memory_limit=1MB"),
        "Full FP32: ",
        "does not fit");
    assertFixable(run("study", "methods", folder.resolve("none.yaml")), "no such file");
    assertFixable(run("study"), "expected a study: generation, methods");
  }
}
