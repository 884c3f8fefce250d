// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.tests.support.FixtureFiles;

/** Model directories in one file and in shards. */
class ModelCheckpointTest {
  private final Path folder;

  ModelCheckpointTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private static void tensor(Path file, String name, float value) {
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      writer.declare(name, StoredType.F32, 1);
      writer.write(name, new float[] {value});
      writer.commit();
    }
  }

  private void index(String weightMap) throws IOException {
    Files.writeString(
        folder.resolve(ModelCheckpoint.INDEX_FILE),
        "{\"metadata\":{\"total_size\":8},\"weight_map\":" + weightMap + "}");
  }

  @Test
  void opensShardsByTheirIndex() throws IOException {
    tensor(folder.resolve("one.safetensors"), "a", 1);
    tensor(folder.resolve("two.safetensors"), "b", 2);
    index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      assertEquals(Set.of("a", "b"), checkpoint.names());
      assertEquals(2f, checkpoint.tensor("b").toFloats()[0]);
      assertEquals(8, checkpoint.bytes());
      assertRefused(() -> checkpoint.tensor("c"), "'c'", "found none");
    }
  }

  @Test
  void oneFileWinsOverAnIndex() throws IOException {
    tensor(folder.resolve("model.safetensors"), "a", 1);
    index("{\"z\":\"absent.safetensors\"}");
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      assertEquals(Set.of("a"), checkpoint.names());
    }
  }

  @Test
  void refusesAnIndexThatLies() throws IOException {
    tensor(folder.resolve("one.safetensors"), "a", 1);
    index("{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}");
    assertRefused(() -> ModelCheckpoint.open(folder), "'b'", "one.safetensors");
    index("{\"a\":\"absent.safetensors\"}");
    assertRefused(() -> ModelCheckpoint.open(folder), "absent.safetensors", "no such file");
    index("{}");
    assertRefused(() -> ModelCheckpoint.open(folder), "weight_map");
    index("{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}");
    assertRefused(() -> ModelCheckpoint.open(folder), "uplicate");
    index("[");
    assertRefused(() -> ModelCheckpoint.open(folder), "not valid JSON");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "../one.safetensors",
        "/etc/one.safetensors",
        "sub/one.safetensors",
        "sub\\\\one.safetensors",
        "..",
        ".safetensors",
        "C:one.safetensors",
        "a\\u0000.safetensors",
        "one.bin",
        ""
      })
  void shardsCannotLeaveTheDirectory(String name) throws IOException {
    tensor(folder.resolve("one.safetensors"), "a", 1);
    index("{\"a\":\"" + name + "\"}");
    assertRefused(() -> ModelCheckpoint.open(folder), "plain name");
  }

  @Test
  void saysWhatADirectoryLacks() throws IOException {
    assertRefused(() -> ModelCheckpoint.open(folder.resolve("absent")), "no such model directory");
    assertRefused(() -> ModelCheckpoint.open(folder), "found neither");
    Files.createFile(folder.resolve("pytorch_model.bin"));
    assertRefused(() -> ModelCheckpoint.open(folder), "convert it to safetensors");
  }

  @Test
  void theFingerprintIsOfTheWeightsNotTheFiles() throws IOException {
    Path sharded = Files.createDirectory(folder.resolve("sharded"));
    Path whole = Files.createDirectory(folder.resolve("whole"));
    Path other = Files.createDirectory(folder.resolve("other"));
    tensor(sharded.resolve("one.safetensors"), "a", 1);
    tensor(sharded.resolve("two.safetensors"), "b", 2);
    Files.writeString(
        sharded.resolve(ModelCheckpoint.INDEX_FILE),
        "{\"weight_map\":{\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    for (Path directory : new Path[] {whole, other}) {
      try (SafetensorsWriter writer =
          SafetensorsWriter.create(directory.resolve("model.safetensors"))) {
        writer.declare("a", StoredType.F32, 1).declare("b", StoredType.F32, 1);
        writer.write("a", new float[] {1});
        writer.write("b", new float[] {directory.equals(whole) ? 2 : Math.nextUp(2f)});
        writer.commit();
      }
    }
    assertEquals(fingerprint(sharded), fingerprint(whole));
    assertNotEquals(fingerprint(whole), fingerprint(other));
  }

  private static String fingerprint(Path directory) {
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
      return checkpoint.fingerprint();
    }
  }

  @Test
  void opensTheReferenceShards() {
    try (ModelCheckpoint checkpoint =
        ModelCheckpoint.open(FixtureFiles.reference("models/mistral"))) {
      assertTrue(checkpoint.names().contains("model.layers.1.mlp.down_proj.weight"));
      assertEquals(StoredType.BF16, checkpoint.tensor("model.norm.weight").storedType());
    }
  }
}
