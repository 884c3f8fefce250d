// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.benchmark;

import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Random;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Progress;
import org.qlora4j.data.MicroBatch;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.ComputeDevice;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.SmallModel;
import org.qlora4j.train.AdamWOptimizer;
import org.qlora4j.train.Trainer;

/**
 * Time and memory of one optimizer step: 4 layers of 2048/5632, 32 query and 4 key heads,
 * vocabulary 32,000, rank 64 on all linear layers, 512 tokens, activation checkpointing, bf16
 * compute, random weights. docs/benchmarks.md compares it with PEFT.
 *
 * <pre>
 * ./mvnw verify -Dtest=TrainingStepBenchmark -Dsurefire.failIfNoSpecifiedTests=false -Dqlora4j.benchmark=true
 * </pre>
 */
class TrainingStepBenchmark {
  private static final int TOKENS = 512;
  private static final int STEPS = 8;
  private static final int VOCABULARY = 32000;

  @ParameterizedTest
  @ValueSource(booleans = {true, false})
  void optimizerStep(boolean quantized, @TempDir Path directory) {
    assumeTrue(
        Boolean.getBoolean("qlora4j.benchmark"), "a benchmark; run with -Dqlora4j.benchmark=true");
    ModelConfig config =
        SmallModel.write(directory, SmallModel.llama(VOCABULARY, 2048, 4, 32, 4, 5632), 1);
    QuantizationConfig quantization = quantized ? QuantizationConfig.nf4() : null;
    try (KernelPack pack = ComputeDevice.AUTO.open(PackOptions.defaults());
        TensorArena arena = new TensorArena(pack);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(directory);
        DecoderModel model =
            ModelLoader.load(
                pack,
                config,
                checkpoint,
                new ModelLoader.Options(DType.BF16, quantization, false),
                Progress.none());
        LoraAdapter adapter =
            LoraAdapter.allocate(
                pack, new LoraConfig(64, 16, 0, false, List.of()), model.linears())) {
      adapter.initialise(1);
      adapter.attach(model.linears());
      adapter.parameters().allocateGradients();
      AdamWOptimizer.Settings settings = new AdamWOptimizer.Settings(0.9, 0.999, 1e-8, 0, 0.3);
      try (AdamWOptimizer optimizer = new AdamWOptimizer(pack, adapter.parameters(), settings)) {
        Trainer trainer =
            new Trainer(
                model,
                adapter.parameters(),
                optimizer,
                step -> 2e-4,
                new Pass(pack, arena, DType.BF16, LoraCompute.FAST, 0, 0, 0, true),
                new DecoderModel.StepOptions(true, TOKENS));
        run(trainer, pack, quantized, arena);
      }
    }
  }

  private static void run(Trainer trainer, KernelPack pack, boolean quantized, TensorArena arena) {
    MicroBatch batch = batch();
    double[] seconds = new double[STEPS];
    double first = 0;
    double last = 0;
    for (int step = 0; step < STEPS; step++) {
      long start = System.nanoTime();
      last = trainer.step(step, List.of(batch)).loss();
      pack.synchronize(); // the update of a GPU's weights may still run
      seconds[step] = (System.nanoTime() - start) / 1e9;
      first = step == 0 ? last : first;
    }
    // The first step touches its memory for the first time.
    double[] timed = Arrays.copyOfRange(seconds, 1, STEPS);
    Arrays.sort(timed);
    System.out.println(
        String.format(
            Locale.ROOT,
            "benchmark step: %s on %s: best %.3f s, median %.3f s, %.1f tokens/s (best), activations %d MB, peak %d MB",
            quantized ? "qlora nf4" : "lora bf16",
            pack.description(),
            timed[0],
            timed[timed.length / 2],
            TOKENS / timed[0],
            arena.peakBytes() >> 20,
            MemoryUse.now().peakBytes() >> 20));
    assertTrue(
        last < first, "the loss falls on a batch that is seen again: " + first + ", " + last);
  }

  private static MicroBatch batch() {
    Random random = new Random(1);
    int[] ids = new int[TOKENS];
    int[] labels = new int[TOKENS];
    int[] positions = new int[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
      ids[i] = random.nextInt(VOCABULARY);
      positions[i] = i;
    }
    System.arraycopy(ids, 1, labels, 0, TOKENS - 1);
    labels[TOKENS - 1] = -100;
    return new MicroBatch(ids, labels, positions, new int[] {0, TOKENS});
  }
}
