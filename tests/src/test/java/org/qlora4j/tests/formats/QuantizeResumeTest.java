// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.CheckpointQuantizer;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Interruption;
import org.qlora4j.tests.support.Packs;

/** A quantization that was interrupted goes on with the files it had finished. */
class QuantizeResumeTest {
  private static final long SHARD = 60_000;

  private final Path folder;

  QuantizeResumeTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private CheckpointQuantizer.Result quantize(Path out, QuantizationConfig config, Progress by) {
    Path model = FixtureFiles.data("tinystories-656k-llama-hf");
    WeightNames names = WeightNames.of(ModelConfig.read(model));
    Set<String> linears = new LinkedHashSet<>();
    names.linears().forEach(module -> linears.add(module.weight()));
    KernelPack pack = Packs.open(Packs.REFERENCE);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(model)) {
      return new CheckpointQuantizer(pack, config)
          .quantize(checkpoint, linears, model, out, SHARD, by);
    }
  }

  private List<String> names(Path directory) throws IOException {
    try (Stream<Path> files = Files.list(directory)) {
      return files.map(file -> String.valueOf(file.getFileName())).sorted().toList();
    }
  }

  @Test
  void finishedFilesAreKeptAndTheResultIsTheSame() throws IOException {
    QuantizationConfig nf4 = QuantizationConfig.nf4();
    Path whole = folder.resolve("whole");
    CheckpointQuantizer.Result first = quantize(whole, nf4, Progress.none());
    assertTrue(first.files() > 2, first.toString());
    assertEquals(0, first.resumedFiles());

    Path out = folder.resolve("out");
    assertThrows(IllegalStateException.class, () -> quantize(out, nf4, new Interruption(9)));
    Path part = folder.resolve(".out.q4j-part");
    List<String> left = names(part);
    assertTrue(left.contains("model-00001-of-0000" + first.files() + ".safetensors"), left + "");
    assertTrue(Files.notExists(out));

    // As a run leaves it that ended while it copied what is not weights.
    Files.writeString(part.resolve("tokenizer.json"), "{");
    CheckpointQuantizer.Result second = quantize(out, nf4, Progress.none());
    assertTrue(second.resumedFiles() > 0, second.toString());
    assertSame(whole, out);
    assertEquals(List.of("out", "whole"), names(folder));
  }

  @Test
  void damagedFilesAndOtherWorkAreNotTaken() throws IOException {
    QuantizationConfig nf4 = QuantizationConfig.nf4();
    Path whole = folder.resolve("whole");
    quantize(whole, nf4, Progress.none());
    Path out = folder.resolve("out");
    Path part = folder.resolve(".out.q4j-part");
    assertThrows(IllegalStateException.class, () -> quantize(out, nf4, new Interruption(9)));
    Path shard =
        part.resolve(
            names(part).stream().filter(n -> n.startsWith("model-00001")).findFirst().get());
    byte[] bytes = Files.readAllBytes(shard);
    bytes[bytes.length - 1] ^= 1;
    Files.write(shard, bytes);
    quantize(out, nf4, Progress.none());
    assertSame(whole, out);

    Path other = folder.resolve("other");
    assertThrows(IllegalStateException.class, () -> quantize(other, nf4, new Interruption(9)));
    QuantizationConfig plain = new QuantizationConfig(nf4.format(), 64, false);
    assertEquals(0, quantize(other, plain, Progress.none()).resumedFiles());
  }

  @Test
  void nothingStaysBeforeTheFirstFile() throws IOException {
    Path out = folder.resolve("out");
    assertThrows(
        IllegalStateException.class,
        () -> quantize(out, QuantizationConfig.nf4(), new Interruption(1)));
    assertEquals(List.of(), names(folder));
  }

  @Test
  void oneRunAtATime() {
    Path out = folder.resolve("out");
    try (AtomicOutput running = AtomicOutput.resumable(out)) {
      InputException e =
          assertThrows(
              InputException.class, () -> quantize(out, QuantizationConfig.nf4(), Progress.none()));
      assertTrue(String.valueOf(e.getMessage()).contains("another run is writing it"));
      assertTrue(Files.exists(running.path()));
    }
  }

  private void assertSame(Path expected, Path actual) throws IOException {
    assertEquals(names(expected), names(actual));
    for (String name : names(expected)) {
      assertArrayEquals(
          Files.readAllBytes(expected.resolve(name)),
          Files.readAllBytes(actual.resolve(name)),
          name);
    }
  }
}
