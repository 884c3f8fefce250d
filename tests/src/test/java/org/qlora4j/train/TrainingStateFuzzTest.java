// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.InputException;
import org.qlora4j.tests.support.Fuzz;

/** {@code trainer_state.json} of a checkpoint, bent at random. */
class TrainingStateFuzzTest {
  private static final long BUFFERS = 4 << 20;
  private static final long PER_BYTE = 1000;

  /** As many keys as a run has, one value as long as a whole configuration. */
  private static TrainingState.Identity identity() {
    Map<String, String> settings = new TreeMap<>();
    for (int i = 0; i < 60; i++) {
      settings.put("a_setting_of_number_" + i, Integer.toString(i));
    }
    settings.put("optim", "32-bit states");
    Map<String, String> model = new TreeMap<>();
    model.put("vocab_size", "1, ".repeat(800));
    return new TrainingState.Identity(settings, model, "0123abcd", "4567ef");
  }

  @Test
  void trainerStates(@TempDir Path folder) throws IOException {
    TrainingState state =
        new TrainingState(
            4, 6, identity(), "reference", 40, Double.NaN, Map.of("a", "b"), 1.5, 1000);
    state.write(folder);
    Path file = folder.resolve(TrainingState.FILE);
    byte[] valid = Files.readAllBytes(file);
    assertEquals(state, TrainingState.read(folder));
    Path metrics = folder.resolve("metrics.jsonl");
    Fuzz.of("trainer_state.json", BUFFERS, PER_BYTE)
        .run(
            List.of(valid),
            input -> {
              Files.write(file, input);
              TrainingState read = TrainingState.read(folder);
              assertTrue(read.step() >= 1 && read.step() <= read.totalSteps(), read.toString());
              assertTrue(read.trainedTokens() >= 0 && read.trainedSeconds() >= 0, read.toString());
              assertTrue(Double.isFinite(read.trainedSeconds()), read.toString());
              // What a run does with it: compare it with itself, and cut its metrics back.
              Files.write(metrics, new byte[60]);
              new Metrics(metrics, read.metricsBytes()).close();
              List<String> differences = read.identity().differences(identity());
              if (!differences.isEmpty()) {
                throw new InputException(TrainingCheckpoints.changed(folder, differences));
              }
            });
  }
}
