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
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.Set;
import java.util.stream.Collectors;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.OperatorTime;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.model.CheckpointSave;
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
 * the input of every Nth block, some tensors of every block besides, everything. What is kept takes
 * the memory it should, and the operators that gave it do not run again.
 */
class ActivationCheckpointTest {
  private static final long SEED = 20261128;
  private static final int LAYERS = 12;
  private static final int TOKENS = 96;
  private static final int HIDDEN = 64;
  private static final int HEADS = 4;
  private static final int KV_HEADS = 2;
  private static final int FFN = 96;

  /** What a step gave and took. */
  private record Step(
      double loss, List<byte[]> gradients, long peakBytes, Map<String, Long> calls) {

    long calls(String operator) {
      return calls.getOrDefault(operator, 0L);
    }
  }

  @ParameterizedTest
  @CsvSource({
    "llama, qlora, BF16",
    "llama, qlora, F32",
    "llama, lora, BF16",
    "llama, full, BF16",
    "neox parallel, qlora, BF16",
    "neox parallel, full, F32",
    "neox sequential, lora, F32",
    "neox sequential, full, BF16",
  })
  void whatIsKeptChangesNoBit(
      String architecture, String method, DType compute, @TempDir Path directory) {
    boolean full = method.equals("full");
    boolean llama = architecture.equals("llama");
    ModelConfig config =
        SmallModel.write(
            directory,
            llama
                ? SmallModel.llama(300, HIDDEN, LAYERS, HEADS, KV_HEADS, FFN)
                : SmallModel.neox(
                    300, HIDDEN, LAYERS, HEADS, FFN, architecture.endsWith("parallel")),
            SEED);
    try (KernelPack pack = KernelPack.openAutomatic();
        ModelCheckpoint checkpoint = ModelCheckpoint.open(directory);
        DecoderModel model =
            ModelLoader.load(
                pack,
                config,
                checkpoint,
                new ModelLoader.Options(
                    compute, method.equals("qlora") ? QuantizationConfig.nf4() : null, full),
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

  /** DoRA's branch keeps more for its backward, and norms of the first block are trained too. */
  @ParameterizedTest
  @CsvSource({"BF16", "F32"})
  void aDoraIsTheSameBits(DType compute, @TempDir Path directory) {
    ModelConfig config =
        SmallModel.write(directory, SmallModel.llama(300, HIDDEN, 5, HEADS, KV_HEADS, FFN), SEED);
    LoraConfig lora =
        new LoraConfig(
            4,
            8,
            0.1,
            false,
            TargetModules.of(List.of()),
            Map.of(),
            Map.of(),
            true,
            LoraConfig.Bias.NONE,
            List.of("norm"),
            new LoraInit(LoraInit.Kind.UNIFORM, 0));
    try (KernelPack pack = KernelPack.openAutomatic();
        ModelCheckpoint checkpoint = ModelCheckpoint.open(directory);
        DecoderModel model =
            ModelLoader.load(
                pack,
                config,
                checkpoint,
                new ModelLoader.Options(compute, QuantizationConfig.nf4(), false),
                Progress.none());
        LoraAdapter adapter = LoraAdapter.allocate(pack, lora, model)) {
      adapter.initialise(SEED, compute, null);
      adapter.attach(model.linears());
      ParameterSet trained = adapter.parameters();
      trained.allocateGradients();
      Step everything = step(model, trained, compute, new DecoderModel.StepOptions(false, 32));
      for (Parameter parameter : trained.parameters()) {
        assertTrue(norm(parameter.gradient().toFloats()) > 0, parameter.name());
      }
      for (Set<CheckpointSave> save :
          List.of(Set.<CheckpointSave>of(), EnumSet.allOf(CheckpointSave.class))) {
        for (int every : new int[] {1, 3}) {
          Step step =
              step(
                  model,
                  trained,
                  compute,
                  new DecoderModel.StepOptions(true, every, save, 32, null));
          assertEquals(everything.loss(), step.loss(), save + " every " + every);
          for (int i = 0; i < step.gradients().size(); i++) {
            assertArrayEquals(
                everything.gradients().get(i),
                step.gradients().get(i),
                save + " every " + every + ": " + trained.parameters().get(i).name());
          }
        }
      }
    }
  }

  private static double norm(float[] values) {
    double sum = 0;
    for (float value : values) {
      sum += (double) value * value;
    }
    return sum;
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
          step(
              model,
              trained,
              compute,
              new DecoderModel.StepOptions(true, every, Set.of(), 32, host));
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
    for (Set<CheckpointSave> save :
        List.of(
            Set.of(CheckpointSave.ATTENTION),
            Set.of(CheckpointSave.QKV),
            Set.of(CheckpointSave.RESIDUAL),
            Set.of(CheckpointSave.MLP),
            Set.of(CheckpointSave.ATTENTION, CheckpointSave.MLP),
            EnumSet.allOf(CheckpointSave.class))) {
      checkSave(model, trained, compute, save, everything, steps.get(0));
    }
  }

  private static void checkSave(
      DecoderModel model,
      ParameterSet trained,
      DType compute,
      Set<CheckpointSave> save,
      Step everything,
      Step inputsAlone) {
    for (int every : new int[] {1, 3, 5, 12}) {
      for (boolean elsewhere : new boolean[] {false, true}) {
        HostInputs host = elsewhere ? new HostInputs() : null;
        Step step =
            step(
                model, trained, compute, new DecoderModel.StepOptions(true, every, save, 32, host));
        String what = save + " every " + every + (elsewhere ? " elsewhere" : "");
        assertEquals(everything.loss(), step.loss(), what);
        for (int i = 0; i < step.gradients().size(); i++) {
          assertArrayEquals(
              everything.gradients().get(i),
              step.gradients().get(i),
              what + ": " + trained.parameters().get(i).name());
        }
        if (save.contains(CheckpointSave.ATTENTION)) {
          // Attention's forward runs once a block, however often the block does.
          assertEquals(
              everything.calls("attention_forward"), step.calls("attention_forward"), what);
        }
        if (every == 1 && !elsewhere) {
          assertEquals(
              (LAYERS - 1) * bytes(model.config(), compute, save),
              step.peakBytes() - inputsAlone.peakBytes(),
              what);
          if (model.weights() != null) {
            // Without an adapter, a product whose result is there is no call at all.
            assertEquals(
                (LAYERS - 1) * products(model.config(), save),
                inputsAlone.calls("linear_forward") - step.calls("linear_forward"),
                what);
          }
        }
      }
    }
    if (model.weights() != null) {
      // Of a block that runs again, down is not computed, nor a parallel residual's sum.
      long again = products(model.config(), EnumSet.allOf(CheckpointSave.class));
      assertEquals(
          (LAYERS - 1) * again,
          inputsAlone.calls("linear_forward") - everything.calls("linear_forward"));
    }
  }

  /** By the shapes alone: what a block keeps. */
  private static long bytes(ModelConfig config, DType compute, Set<CheckpointSave> save) {
    boolean llama = config.architecture().modelType().equals("llama");
    long bytes = 0;
    if (save.contains(CheckpointSave.ATTENTION)) {
      bytes += TOKENS * ((long) HIDDEN * compute.bytes() + HEADS * Float.BYTES);
    }
    if (save.contains(CheckpointSave.QKV)) {
      long width = llama ? HIDDEN + 2 * KV_HEADS * HIDDEN / HEADS : 3 * HIDDEN;
      bytes += (long) TOKENS * width * compute.bytes();
    }
    if (save.contains(CheckpointSave.RESIDUAL) && !config.parallelResidual()) {
      bytes += (long) TOKENS * HIDDEN * compute.bytes();
    }
    if (save.contains(CheckpointSave.MLP)) {
      bytes += (long) TOKENS * (llama ? 2 : 1) * FFN * compute.bytes();
    }
    return bytes;
  }

  /** Products of a block whose results are kept. */
  private static long products(ModelConfig config, Set<CheckpointSave> save) {
    boolean llama = config.architecture().modelType().equals("llama");
    long count = save.contains(CheckpointSave.QKV) ? llama ? 3 : 1 : 0;
    count += save.contains(CheckpointSave.RESIDUAL) && !config.parallelResidual() ? 1 : 0;
    return count + (save.contains(CheckpointSave.MLP) ? llama ? 2 : 1 : 0);
  }

  /** Keeps inputs on the Java heap, and checks the order in which they are asked for. */
  private static final class HostInputs implements LayerInputs {
    private final Deque<List<byte[]>> kept = new ArrayDeque<>();
    private int restored = 0;
    private long bytes = 0;

    @Override
    public void begin(int groups, long bytes) {
      assertTrue(kept.isEmpty());
      this.bytes = bytes;
    }

    @Override
    public void keep(int group, List<DeviceTensor> tensors) {
      assertEquals(kept.size(), group);
      assertEquals(bytes, tensors.stream().mapToLong(t -> LayerInputs.aligned(t.bytes())).sum());
      kept.push(tensors.stream().map(DeviceTensor::toBytes).toList());
    }

    @Override
    public void restore(int group, List<DeviceTensor> tensors) {
      List<byte[]> values = kept.pop();
      assertEquals(kept.size(), group);
      assertEquals(values.size(), tensors.size());
      for (int i = 0; i < values.size(); i++) {
        DeviceTensor x = tensors.get(i);
        x.buffer().copyIn(x.byteOffset(), ByteBuffer.wrap(values.get(i)));
      }
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
      model.pack().profile(true);
      double loss = model.trainingStep(pass, batch, labels, 1f / TOKENS, options);
      model.pack().profile(false);
      arena.release(mark);
      return new Step(
          loss,
          trained.parameters().stream().map(p -> p.gradient().toBytes()).toList(),
          arena.peakBytes(),
          model.pack().operatorTimes().stream()
              .collect(Collectors.toMap(OperatorTime::operator, OperatorTime::calls)));
    }
  }
}
