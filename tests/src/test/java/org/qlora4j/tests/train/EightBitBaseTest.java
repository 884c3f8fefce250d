// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.tests.support.CommandRuns;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;

/** LoRA on bases with INT8 and FP8 weights: it learns, resumes bit for bit, and generates. */
class EightBitBaseTest {
  private static final int STEPS = 12;

  private final Path folder;

  EightBitBaseTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private TrainConfig config(String output, String... more) {
    List<String> settings = new ArrayList<>(List.of(more));
    settings.add("output_dir=" + folder.resolve(output));
    return TrainConfigReader.parse(
        """
        model: %s
        train_file: %s
        val_set_size: 24
        sequence_length: 64
        lora_r: 16
        lora_dropout: 0.1
        learning_rate: 3e-3
        lr_scheduler_type: constant
        per_device_train_batch_size: 4
        max_steps: %d
        """
            .formatted(
                FixtureFiles.project("examples/model"),
                FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                STEPS),
        "test",
        settings);
  }

  private static byte[] adapter(TrainingSummary run) throws IOException {
    return Files.readAllBytes(run.output().resolve(PeftAdapterFile.WEIGHTS_FILE));
  }

  @ParameterizedTest
  @ValueSource(strings = {"int8", "fp8", "int8\nllm_int8_threshold=3"})
  void learnsResumesAndGenerates(String quantization) throws IOException {
    String[] base = ("quantization=" + quantization).split("\n", -1);
    TrainingSummary dense = TrainingRun.run(config("dense", "method=lora"), false, Progress.none());
    TrainConfig config = config("run", base);
    assertEquals(TrainConfig.Method.LORA, config.method());
    TrainingSummary run = TrainingRun.run(config, false, Progress.none());
    assertTrue(run.finalEvalLoss() < run.initialEvalLoss() - 0.3, run::toString);
    // Eight bits cost little: the held-out loss is that of the dense base within 2 %.
    assertEquals(dense.finalEvalLoss(), run.finalEvalLoss(), 0.02 * dense.finalEvalLoss());
    assertTrue(
        run.memory().weights() < dense.memory().weights(),
        run.memory().weights() + " bytes of weights, dense " + dense.memory().weights());

    List<String> saving = new ArrayList<>(List.of(base));
    saving.add("save_steps=8"); // one checkpoint, which the resumed run goes on from
    TrainConfig interrupted = config("interrupted", saving.toArray(new String[0]));
    TrainingRun.run(interrupted, false, Progress.none());
    Files.delete(folder.resolve("interrupted/adapter").resolve(PeftAdapterFile.WEIGHTS_FILE));
    TrainingSummary resumed = TrainingRun.run(interrupted, true, Progress.none());
    assertArrayEquals(adapter(run), adapter(resumed), "resumed after step 8");

    List<String> more = new ArrayList<>(List.of("--quantize", quantization.split("\n", 2)[0]));
    if (base.length > 1) {
      more.addAll(List.of("--llm-int8-threshold", "3"));
    }
    assertTrue(!generate(run.output(), more).isBlank());
  }

  private static String generate(Path adapter, List<String> more) {
    List<String> arguments =
        new ArrayList<>(
            List.of(
                "generate",
                FixtureFiles.project("examples/model").toString(),
                "--adapter",
                adapter.toString(),
                "--prompt",
                "\uc81c\ubaa9:",
                "--max-new-tokens",
                "8"));
    arguments.addAll(more);
    return CommandRuns.assertDone(CommandRuns.run(arguments.toArray())).out();
  }

  @Test
  void aBaseIn4BitsIsRefused() {
    Path four = folder.resolve("four");
    CommandRuns.assertDone(
        CommandRuns.run("quantize", FixtureFiles.project("examples/model"), four));
    InputException e =
        assertThrows(
            InputException.class,
            () ->
                TrainingRun.run(
                    config("out", "model=" + four, "quantization=fp8"), false, Progress.none()));
    assertTrue(String.valueOf(e.getMessage()).contains("stored in 4 bits"), e.getMessage());
  }
}
