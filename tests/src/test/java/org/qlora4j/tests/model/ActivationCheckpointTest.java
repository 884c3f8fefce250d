// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.LayerInputs;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.SmallModel;

/**
 * Whatever of the activations is kept, and where, loss and gradients are the same bits: nothing,
 * the input of every Nth block, everything; and fewer kept inputs take less memory.
 */
class ActivationCheckpointTest {
  private static final long SEED = 20261128;
  private static final int LAYERS = 12;
  private static final int TOKENS = 96;
  private static final int HIDDEN = 64;

  /** What a step gave and took. */
  private record Step(double loss, List<byte[]> gradients, long peakBytes) {}

  @ParameterizedTest
  @CsvSource({"qlora, BF16", "qlora, F32", "full, BF16"})
  void whatIsKeptChangesNoBit(String method, DType compute, @TempDir Path directory) {
    boolean full = method.equals("full");
    ModelConfig config =
        SmallModel.write(directory, SmallModel.llama(300, HIDDEN, LAYERS, 4, 2, 96), SEED);
    try (KernelPack pack = KernelPack.openAutomatic();
        ModelCheckpoint checkpoint = ModelCheckpoint.open(directory);
        DecoderModel model =
            ModelLoader.load(
                pack,
                config,
                checkpoint,
                new ModelLoader.Options(compute, full ? null : QuantizationConfig.nf4(), full),
                Progress.none())) {
      if (full) {
        check(model, Objects.requireNonNull(model.weights()), compute);
        return;
      }
      LoraConfig lora = new LoraConfig(8, 16, 0.1, false, List.of());
      try (LoraAdapter adapter = LoraAdapter.allocate(pack, lora, model.linears())) {
        adapter.initialise(SEED);
        adapter.attach(model.linears());
        // B is zeros at first, which would leave A without a gradient.
        Random random = new Random(SEED);
        for (Parameter parameter : adapter.parameters().parameters()) {
          float[] values = new float[(int) parameter.value().elements()];
          for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian() * 0.05f;
          }
          parameter.value().copyFrom(values);
        }
        check(model, adapter.parameters(), compute);
      }
    }
  }

  private static void check(DecoderModel model, ParameterSet trained, DType compute) {
    trained.allocateGradients();
    Step everything = step(model, trained, compute, new DecoderModel.StepOptions(false, 32));
    List<Step> steps = new ArrayList<>();
    for (int every : new int[] {1, 2, 3, 4, 5, 11, 12, 13, 100}) {
      Step step = step(model, trained, compute, new DecoderModel.StepOptions(true, every, 32));
      steps.add(step);
      assertEquals(everything.loss(), step.loss(), "every " + every);
      for (int i = 0; i < step.gradients().size(); i++) {
        assertArrayEquals(
            everything.gradients().get(i),
            step.gradients().get(i),
            "every " + every + ": " + trained.parameters().get(i).name());
      }
    }
    for (int every : new int[] {1, 3, 5, 12}) {
      HostInputs host = new HostInputs();
      Step step =
          step(model, trained, compute, new DecoderModel.StepOptions(true, every, 32, host));
      assertEquals(everything.loss(), step.loss(), "elsewhere, every " + every);
      for (int i = 0; i < step.gradients().size(); i++) {
        assertArrayEquals(
            everything.gradients().get(i),
            step.gradients().get(i),
            "elsewhere, every " + every + ": " + trained.parameters().get(i).name());
      }
      assertEquals((LAYERS - 1) / every, host.restored);
      if (every == 1) {
        // Of 11 kept inputs none but the one in use.
        long saved = steps.get(0).peakBytes() - step.peakBytes();
        assertTrue(saved >= 9 * (long) TOKENS * HIDDEN * compute.bytes(), "saved " + saved);
      }
    }
    // With every block's input: 12 of them. In groups of 3 or 4, no more than 4 + 4.
    long input = (long) TOKENS * HIDDEN * compute.bytes();
    long one = steps.get(0).peakBytes();
    assertTrue(everything.peakBytes() > one, everything.peakBytes() + " and " + one);
    for (int i : new int[] {2, 3}) {
      long saved = one - steps.get(i).peakBytes();
      assertTrue(saved >= 4 * input, "saved " + saved + ", an input is " + input);
    }
  }

  /** Keeps inputs on the Java heap, and checks the order in which they are asked for. */
  private static final class HostInputs implements LayerInputs {
    private final Deque<byte[]> kept = new ArrayDeque<>();
    private int restored = 0;
    private long bytes = 0;

    @Override
    public void begin(int groups, long bytes) {
      assertTrue(kept.isEmpty());
      this.bytes = bytes;
    }

    @Override
    public void keep(int group, DeviceTensor x) {
      assertEquals(kept.size(), group);
      assertEquals(bytes, x.bytes());
      kept.push(x.toBytes());
    }

    @Override
    public void restore(int group, DeviceTensor x) {
      byte[] values = kept.pop();
      assertEquals(kept.size(), group);
      x.buffer().copyIn(x.byteOffset(), ByteBuffer.wrap(values));
      restored++;
    }
  }

  private static Step step(
      DecoderModel model, ParameterSet trained, DType compute, DecoderModel.StepOptions options) {
    trained.zeroGradients();
    Random random = new Random(SEED);
    int[] ids = random.ints(TOKENS, 0, 300).toArray();
    int[] labels = random.ints(TOKENS, 0, 300).toArray();
    int[] positions = new int[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
      positions[i] = i % 48;
    }
    try (TensorArena arena = new TensorArena(model.pack())) {
      Pass pass = new Pass(model.pack(), arena, compute, LoraCompute.FAST, SEED, 3, 1, true);
      var mark = arena.mark();
      SequenceBatch batch =
          SequenceBatch.of(arena, ids, positions, new int[] {0, TOKENS / 2, TOKENS});
      double loss = model.trainingStep(pass, batch, labels, 1f / TOKENS, options);
      arena.release(mark);
      return new Step(
          loss,
          trained.parameters().stream().map(p -> p.gradient().toBytes()).toList(),
          arena.peakBytes());
    }
  }
}
