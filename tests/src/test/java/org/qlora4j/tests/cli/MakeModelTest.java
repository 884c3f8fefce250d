// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.Json;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.tests.support.FixtureFiles;

/** {@code make-model}: random checkpoints of a shape. */
class MakeModelTest {
  private final Path folder;

  MakeModelTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "llama",
        "llama3_tied",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma2",
        "gemma3",
        "neox_polyglot",
        "neox_sequential"
      })
  void everyShapeHasAllItsTensors(String name) {
    Path config = FixtureFiles.reference("models/" + name).resolve("config.json");
    for (String dtype : List.of("bf16", "f16", "f32")) {
      Path out = folder.resolve(dtype);
      assertDone(
          run("make-model", "--config", config, out, "--dtype", dtype, "--shard-size", "20KB"));
      ModelConfig shape = ModelConfig.read(out);
      try (ModelCheckpoint checkpoint = ModelCheckpoint.open(out)) {
        WeightNames.of(shape).check(checkpoint);
        for (TensorSource tensor : checkpoint.tensors()) {
          assertEquals(dtype.toUpperCase(Locale.ROOT), tensor.storedType().name());
          check(shape, tensor);
        }
      }
      assertEquals(
          dtype,
          switch (shape.dtype()) {
            case BF16 -> "bf16";
            case F16 -> "f16";
            case F32 -> "f32";
            default -> "another";
          });
    }
  }

  /** Mean and deviation of a tensor are those its part should have. */
  private static void check(ModelConfig shape, TensorSource tensor) {
    float[] values = tensor.toFloats();
    double sum = 0;
    double squares = 0;
    for (float value : values) {
      sum += value;
      squares += (double) value * value;
    }
    double mean = sum / values.length;
    double deviation = Math.sqrt(squares / values.length - mean * mean);
    String name = tensor.name();
    boolean vector = tensor.shape().length == 1;
    boolean residual = name.matches(".*(o_proj|down_proj|attention.dense|dense_4h_to_h).weight");
    double expected =
        vector ? 0 : shape.initializerRange() / (residual ? Math.sqrt(2 * shape.layers()) : 1);
    float norm = shape.norm().neutralWeight();
    assertEquals(name.endsWith(".bias") || !vector ? 0 : norm, mean, 0.002, name);
    // The relative error of a deviation over n elements is 1 / sqrt(2 n).
    assertEquals(expected, deviation, expected * 5 / Math.sqrt(2.0 * values.length), name);
  }

  @Test
  void shardsThreadsAndSeed() throws IOException {
    Path config = FixtureFiles.reference("models/neox_polyglot").resolve("config.json");
    Path whole = folder.resolve("whole");
    Path sharded = folder.resolve("sharded");
    Path other = folder.resolve("other");
    Path json = folder.resolve("figures.json");
    String out =
        assertDone(run("make-model", "--config", config, whole, "--threads", 1, "--json", json))
            .out();
    assertTrue(out.contains("in 1 file"), out);
    assertEquals(1, Json.readObject(json, 1 << 20).get("files").intValue());
    assertDone(
        run("make-model", "--config", config, sharded, "--threads", 3, "--shard-size", "30KB"));
    assertDone(run("make-model", "--config", config, other, "--seed", 1));
    ObjectNode index = Json.readObject(sharded.resolve("model.safetensors.index.json"), 1 << 20);
    try (ModelCheckpoint a = ModelCheckpoint.open(whole);
        ModelCheckpoint b = ModelCheckpoint.open(sharded);
        ModelCheckpoint c = ModelCheckpoint.open(other)) {
      assertEquals(a.bytes(), index.get("metadata").get("total_size").longValue());
      assertEquals(a.names(), b.names());
      for (TensorSource tensor : a.tensors()) {
        assertArrayEquals(tensor.toBytes(), b.tensor(tensor.name()).toBytes(), tensor.name());
      }
      assertFalse(a.fingerprint().equals(c.fingerprint()), "another seed, other weights");
      long files = b.tensors().stream().map(TensorSource::file).distinct().count();
      assertTrue(files > 3, files + " files");
      assertEquals(
          String.format("model-%05d-of-%05d.safetensors", files, files),
          String.valueOf(
              b.tensors().stream()
                  .map(TensorSource::file)
                  .max(Path::compareTo)
                  .get()
                  .getFileName()));
      assertEquals(StoredType.BF16, b.tensors().iterator().next().storedType());
    }
  }

  @Test
  void withATokenizerItTrains() throws IOException {
    Path source = FixtureFiles.data("tinystories-656k-llama-hf");
    Path model = folder.resolve("model");
    assertDone(run("make-model", "--config", source, "--tokenizer", source, model));
    Path text = Files.writeString(folder.resolve("t.txt"), "Once upon a time. ".repeat(50));
    Path config =
        Files.writeString(
            folder.resolve("c.yaml"),
            "model: %s%ntrain_file: %s%noutput_dir: %s%nmax_steps: 1%nsequence_length: 32%n"
                .formatted(model, text, folder.resolve("out")));
    assertDone(run("train", config));
    assertTrue(Files.exists(folder.resolve("out/adapter")));
  }

  @Test
  void mistakesAreOneLine() throws IOException {
    Path config = FixtureFiles.reference("models/llama").resolve("config.json");
    Path out = folder.resolve("out");
    assertFixable(run("make-model", out), "--config");
    assertFixable(run("make-model", "--config", folder.resolve("no.json"), out), "no such file");
    assertFixable(run("make-model", "--config", config, out, "--dtype", "int8"), "int8");
    assertFixable(
        run("make-model", "--config", config, out, "--shard-size", "big"), "--shard-size", "big");
    assertFixable(
        run("make-model", "--config", config, out, "--tokenizer", folder), "tokenizer.json");
    Files.writeString(Files.createDirectory(out).resolve("mine.txt"), "mine");
    assertFixable(run("make-model", "--config", config, out), "other files");
    // Petabytes fit nowhere.
    Path large =
        Files.writeString(
            folder.resolve("large.json"),
            Files.readString(config)
                .replaceAll("\"vocab_size\": \\d+", "\"vocab_size\": 16000000")
                .replaceAll("\"hidden_size\": \\d+", "\"hidden_size\": 16000000")
                .replaceAll("\"head_dim\": \\d+", "\"head_dim\": 4096"));
    assertFixable(
        run("make-model", "--config", large, folder.resolve("x")), "free disk space", "found");
    assertFalse(Files.exists(folder.resolve("x")));
  }
}
