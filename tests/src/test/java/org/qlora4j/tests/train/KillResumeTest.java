// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.tests.support.CommandRuns;
import org.qlora4j.train.TrainingRun;

/**
 * A run that is killed again and again and goes on with {@code --resume} ends with the same
 * adapter, bit for bit, as one that was not. The processes are real and are killed without a chance
 * to clean up. {@code -Dqlora4j.tests.kills=N} sets how often.
 */
class KillResumeTest {

  private static final int KILLS = Integer.getInteger("qlora4j.tests.kills", 20);
  private static final Path ROOT =
      Path.of(System.getProperty("qlora4j.root", "..")).toAbsolutePath().normalize();

  @Test
  void killedRunsEndWithTheSameBits(@TempDir Path directory)
      throws IOException, InterruptedException {
    Path config = directory.resolve("run.yaml");
    Files.writeString(
        config,
        """
        model: %s
        method: qlora
        train_file: %s
        val_set_size: 8
        sequence_length: 64
        lora_r: 4
        lora_dropout: 0.1
        packing: true
        group_by_length: true
        label_smoothing_factor: 0.05
        neftune_noise_alpha: 5
        learning_rate: 1e-3
        lr_scheduler_type: cosine
        per_device_train_batch_size: 1
        gradient_accumulation_steps: 2
        max_steps: 60
        save_steps: 2
        save_total_limit: 2
        eval_steps: 20
        logging_steps: 1
        """
            .formatted(
                ROOT.resolve("examples/model"), ROOT.resolve("examples/data/blog-reviews.jsonl")));

    Path whole = directory.resolve("whole");
    long started = System.nanoTime();
    assertEquals(0, waitFor(train(config, whole, false)), "the run that nobody kills");
    double seconds = (System.nanoTime() - started) / 1e9;
    byte[] expected = adapter(whole);
    String metrics = withoutTimes(whole.resolve("metrics.jsonl"));

    Path killed = directory.resolve("killed");
    Random random = new Random(20261123);
    int interrupted = 0;
    for (int i = 0; i < KILLS; i++) {
      Process process = train(config, killed, true);
      // Mostly while it trains, sometimes while it starts or writes its result.
      long delay = (long) (1000 * seconds * (0.05 + 0.6 * random.nextDouble()));
      if (!process.waitFor(delay, TimeUnit.MILLISECONDS)) {
        process.destroyForcibly().waitFor();
        interrupted++;
      }
      checkNothingPartial(killed);
    }
    System.out.println(
        "killed " + interrupted + " of " + KILLS + " processes of a run of " + seconds + " s");
    assertTrue(interrupted > KILLS / 4, "most processes ended before they were killed");
    assertEquals(0, waitFor(train(config, killed, true)), "the run that was killed");
    assertArrayEquals(expected, adapter(killed), "the adapter of the killed run");
    assertEquals(
        metrics, withoutTimes(killed.resolve("metrics.jsonl")), "metrics.jsonl of the killed run");
    try (Stream<Path> files = Files.list(killed)) {
      assertFalse(
          files.anyMatch(f -> f.getFileName().toString().startsWith(".")),
          "leftovers in " + killed);
    }
  }

  private static Process train(Path config, Path output, boolean resume) throws IOException {
    List<String> command = CommandRuns.command("train", config, "--set", "output_dir=" + output);
    if (resume) {
      command.add("--resume");
    }
    return new ProcessBuilder(command)
        .redirectErrorStream(true)
        .redirectOutput(
            ProcessBuilder.Redirect.appendTo(
                output.resolveSibling(output.getFileName() + ".log").toFile()))
        .start();
  }

  private static int waitFor(Process process) throws InterruptedException {
    assertTrue(process.waitFor(5, TimeUnit.MINUTES), "the process did not end");
    return process.exitValue();
  }

  private static byte[] adapter(Path output) throws IOException {
    return Files.readAllBytes(
        output.resolve(TrainingRun.ADAPTER).resolve(PeftAdapterFile.WEIGHTS_FILE));
  }

  /** The result is not there, or complete. */
  private static void checkNothingPartial(Path output) {
    Path adapter = output.resolve(TrainingRun.ADAPTER);
    if (Files.exists(adapter)) {
      PeftAdapterFile.open(adapter).close();
    }
  }

  /** What the metrics say about the training, without the figures of the clock and of memory. */
  private static String withoutTimes(Path metrics) throws IOException {
    return Files.readString(metrics)
        .replaceAll("\"(seconds|tokens_per_s|resident_bytes|peak_bytes)\":[^,}]*,?", "")
        .replaceAll("\"(memory|planned)_bytes\":\\{[^}]*\\},?", "")
        .replaceAll("\"planned_peak_bytes\":[^,}]*,?", "");
  }
}
