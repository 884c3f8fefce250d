// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.example.consumer;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;

/** What a user gets from the installed jars, on a machine without a compiler. */
class InstalledArtifactsTest {
  private static final List<String> CPU_PACKS =
      List.of("reference", "cpu-avx2", "cpu-avx512", "cpu-avx512bf16", "cpu-amx");

  @Test
  void noCompilerIsOnThePath() {
    for (String compiler : List.of("g++", "gcc", "cc", "c++", "nvcc", "javac")) {
      assertThrows(IOException.class, () -> new ProcessBuilder(compiler, "--version").start());
    }
  }

  @Test
  void librariesComeFromJars() {
    for (String resource :
        List.of(
            "/org/qlora4j/kernels/abi/linux-x86_64/libjniqlora4j.so",
            "/org/qlora4j/kernels/abi/linux-x86_64/libqlora4j.so",
            "/org/qlora4j/packs/linux-x86_64/libqlora4j-pack-reference.so")) {
      URL url = KernelPack.class.getResource(resource);
      assertTrue(url != null && url.getProtocol().equals("jar"), resource + " is " + url);
    }
  }

  /** Every CPU pack is in the jars; each that this machine can run quantizes a block of NF4. */
  @TestFactory
  List<DynamicTest> everyCpuPackWorks() {
    assertTrue(
        KernelPack.shipped().containsAll(CPU_PACKS), () -> "shipped: " + KernelPack.shipped());
    return CPU_PACKS.stream()
        .map(name -> DynamicTest.dynamicTest(name, () -> quantizeOneBlock(name)))
        .toList();
  }

  /** One optimizer step of QLoRA, from a configuration to an adapter on disk. */
  @Test
  void trainsOneStep(@TempDir Path directory) {
    Path examples = Path.of(System.getProperty("qlora4j.examples"));
    String yaml =
        "model: " + examples.resolve("model") + "\n"
            + "method: qlora\n"
            + "train_file: " + examples.resolve("data/blog-reviews.jsonl") + "\n"
            + "output_dir: " + directory + "\n"
            + "sequence_length: 64\n"
            + "per_device_train_batch_size: 2\n"
            + "lora_r: 4\n"
            + "max_steps: 1\n";
    TrainConfig config = TrainConfigReader.parse(yaml, "the test's configuration", List.of());
    TrainingSummary summary = TrainingRun.run(config, false, Progress.none());
    assertEquals(1, summary.steps());
    // An untuned model of 4608 tokens guesses with ln 4608 = 8.4; this one has been pretrained.
    assertTrue(summary.finalTrainLoss() > 0 && summary.finalTrainLoss() < 8.4);
    assertTrue(Files.isRegularFile(directory.resolve("adapter/adapter_model.safetensors")));
    assertTrue(Files.isRegularFile(directory.resolve("adapter/adapter_config.json")));
  }

  private static void quantizeOneBlock(String name) {
    KernelPack opened;
    try {
      opened = KernelPack.open(PackOptions.defaults().withPack(name));
    } catch (UnsupportedOperationException e) {
      Assumptions.abort(e.getMessage());
      return;
    }
    try (KernelPack pack = opened;
        DeviceBuffer memory = DeviceBuffer.allocate(pack, 1024)) {
      assertEquals(name, pack.name());
      assertFalse(pack.buildInfo().isEmpty());
      // Both ends and the zero of the NF4 table, 64 elements: 1, -1, 0, 0, 1, -1, ...
      float[] values = new float[64];
      for (int i = 0; i < values.length; i += 4) {
        values[i] = 2.5f;
        values[i + 1] = -2.5f;
      }
      DeviceTensor input = DeviceTensor.of(memory, 0, DType.F32, 64);
      DeviceTensor packed = DeviceTensor.of(memory, 256, DType.U8, 32);
      DeviceTensor absmax = DeviceTensor.of(memory, 512, DType.F32, 1);
      input.copyFrom(values);
      Quantization4Bit.quantize(
          pack, WeightFormat.NF4, input, 64, 0, packed, absmax, null, null);
      assertArrayEquals(new float[] {2.5f}, absmax.toFloats());
      byte[] codes = packed.toBytes();
      for (int i = 0; i < codes.length; i += 2) {
        // The even element is the high nibble: code 15 is 1, code 0 is -1, code 7 is 0.
        assertEquals((byte) 0xf0, codes[i], "byte " + i);
        assertEquals((byte) 0x77, codes[i + 1], "byte " + (i + 1));
      }
    }
  }
}
