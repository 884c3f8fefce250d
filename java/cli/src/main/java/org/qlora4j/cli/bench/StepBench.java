// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.lang.management.ManagementFactory;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.SplittableRandom;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Progress;
import org.qlora4j.data.MicroBatch;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.OperatorTime;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.CheckpointSave;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.train.AdamWOptimizer;
import org.qlora4j.train.Trainer;

/**
 * Whole training steps, through the same {@link Trainer} and {@link DecoderModel} as {@code train}:
 * forward, loss, backward, clipping, AdamW; random weights in NF4 with double quantization, LoRA on
 * all linear layers, activation checkpointing of some kind, bf16.
 */
public final class StepBench {
  private static final int LOSS_CHUNK_ROWS = 512;

  /**
   * What to measure.
   *
   * @param rank of the adapters
   * @param sequence tokens of a sequence
   * @param batch sequences of a step
   * @param warmUp steps before the measured ones
   * @param steps measured steps
   * @param checkpointing whether blocks run again in the backward pass
   * @param save with it: what is kept besides their inputs
   */
  public record Options(
      ModelConfig config,
      int rank,
      int sequence,
      int batch,
      int warmUp,
      int steps,
      boolean checkpointing,
      Set<CheckpointSave> save) {}

  /** Memory that is counted where it is allocated, in bytes. */
  public record Parts(long weights, long adapters, long optimizerStates, long activations) {}

  /**
   * What was measured.
   *
   * @param secondsPerStep median
   * @param cpuSecondsPerStep mean of the processor time of the whole process, all threads together,
   *     over the measured steps: the system counts it in ticks that can be longer than a step
   * @param peakBytes VmHWM of the process, loading included
   * @param firstLoss loss of the first step
   * @param lastLoss loss of the last step, which saw the same tokens
   * @param profile seconds per step by part of the step, in the order of a table; empty when it was
   *     not asked for
   */
  public record Result(
      double secondsPerStep,
      double cpuSecondsPerStep,
      double tokensPerSecond,
      long peakBytes,
      Parts parts,
      double firstLoss,
      double lastLoss,
      Map<String, Part> profile) {}

  /** Calls and seconds of one part, per step. */
  public record Part(double calls, double seconds) {}

  private static final String OUTSIDE = "Java, JNI, loader, libtorch";

  private StepBench() {}

  /** A Llama of this shape. */
  public static ModelConfig llama(
      int vocab, int hidden, int ffn, int layers, int heads, int kvHeads, int positions) {
    ObjectNode json = Json.newObject();
    json.put("model_type", "llama");
    json.put("vocab_size", vocab);
    json.put("hidden_size", hidden);
    json.put("intermediate_size", ffn);
    json.put("num_hidden_layers", layers);
    json.put("num_attention_heads", heads);
    json.put("num_key_value_heads", kvHeads);
    json.put("max_position_embeddings", positions);
    json.put("tie_word_embeddings", false);
    return ModelConfig.parse(json, "the options");
  }

  /** Runs the steps. */
  public static Result run(KernelPack pack, Options options, boolean profile, Progress progress) {
    try (TensorArena arena = new TensorArena(pack);
        DecoderModel model =
            ModelLoader.random(
                pack,
                options.config(),
                new ModelLoader.Options(DType.BF16, QuantizationConfig.nf4(), false),
                1,
                progress)) {
      long weights = pack.allocatedBytes();
      try (LoraAdapter adapter =
          LoraAdapter.allocate(
              pack, new LoraConfig(options.rank(), 16, 0, false, List.of()), model.linears())) {
        adapter.initialise(1);
        adapter.attach(model.linears());
        adapter.parameters().allocateGradients();
        long adapters = pack.allocatedBytes() - weights;
        AdamWOptimizer.Settings settings = new AdamWOptimizer.Settings(0.9, 0.999, 1e-8, 0, 0.3);
        try (AdamWOptimizer optimizer = new AdamWOptimizer(pack, adapter.parameters(), settings)) {
          Trainer trainer =
              new Trainer(
                  model,
                  adapter.parameters(),
                  optimizer,
                  step -> 2e-4,
                  new Pass(pack, arena, DType.BF16, LoraCompute.FAST, 0, 0, 0, true),
                  new DecoderModel.StepOptions(
                      options.checkpointing(), 1, options.save(), LOSS_CHUNK_ROWS, null));
          return run(
              trainer, pack, options, arena, profile, weights, adapters, optimizer, progress);
        }
      }
    }
  }

  private static Result run(
      Trainer trainer,
      KernelPack pack,
      Options options,
      TensorArena arena,
      boolean profile,
      long weights,
      long adapters,
      AdamWOptimizer optimizer,
      Progress progress) {
    MicroBatch batch = batch(options);
    int all = options.warmUp() + options.steps();
    double[] seconds = new double[options.steps()];
    long cpuStart = 0;
    double first = Double.NaN;
    double last = Double.NaN;
    progress.start("bench step", all);
    for (int step = 0; step < all; step++) {
      if (step == options.warmUp()) {
        if (profile) {
          pack.profile(true);
        }
        cpuStart = processNanoseconds();
      }
      long start = System.nanoTime();
      last = trainer.step(step, List.of(batch)).loss();
      pack.synchronize();
      double time = (System.nanoTime() - start) / 1e9;
      if (step >= options.warmUp()) {
        seconds[step - options.warmUp()] = time;
      }
      first = step == 0 ? last : first;
      progress.update(step + 1, String.format(Locale.ROOT, "%.3f s", time));
    }
    double cpuSeconds = (processNanoseconds() - cpuStart) / 1e9;
    progress.finish();
    Map<String, Part> parts = Map.of();
    if (profile) {
      pack.profile(false);
      parts = parts(pack.operatorTimes(), Arrays.stream(seconds).sum(), options.steps());
    }
    double median = PairedTimer.median(seconds);
    return new Result(
        median,
        cpuSeconds / options.steps(),
        batch.tokens() / median,
        MemoryUse.now().peakBytes(),
        new Parts(weights, adapters, optimizer.stateBytes(), arena.peakBytes()),
        first,
        last,
        parts);
  }

  /** Processor time of this process; 0 where the Java runtime does not tell. */
  private static long processNanoseconds() {
    return ManagementFactory.getOperatingSystemMXBean()
            instanceof com.sun.management.OperatingSystemMXBean system
        ? system.getProcessCpuTime()
        : 0;
  }

  /**
   * Sums the operators by what a reader asks for; what is left of the wall clock is ours in Java.
   */
  static Map<String, Part> parts(List<OperatorTime> times, double wallSeconds, int steps) {
    Map<String, Part> parts = new LinkedHashMap<>();
    double left = wallSeconds;
    for (OperatorTime time : times) {
      double seconds = time.nanoseconds() / 1e9;
      left -= seconds;
      parts.merge(
          partOf(time.operator()),
          new Part((double) time.calls() / steps, seconds / steps),
          (a, b) -> new Part(a.calls() + b.calls(), a.seconds() + b.seconds()));
    }
    parts.put(OUTSIDE, new Part(0, left / steps));
    return parts;
  }

  private static String partOf(String operator) {
    return switch (operator) {
      case "linear_forward" -> "linear, forward";
      case "linear_backward_input" -> "linear, backward";
      case "lora_weight_gradient", "linear_weight_gradient" -> "adapter gradients";
      case "attention_forward" -> "attention, forward";
      case "attention_backward" -> "attention, backward";
      case "rotary" -> "rotary";
      case "rms_norm_forward", "rms_norm_backward", "layer_norm_forward", "layer_norm_backward" ->
          "norms";
      case "activation_forward", "activation_backward" -> "activation";
      case "cross_entropy" -> "loss (without its product)";
      case "gradient_norm", "adamw", "adamw_8bit" -> "optimizer";
      default -> operator;
    };
  }

  private static MicroBatch batch(Options options) {
    SplittableRandom random = new SplittableRandom(1);
    int tokens = options.sequence() * options.batch();
    int[] ids = new int[tokens];
    int[] labels = new int[tokens];
    int[] positions = new int[tokens];
    int[] starts = new int[options.batch() + 1];
    for (int i = 0; i < tokens; i++) {
      ids[i] = random.nextInt(options.config().vocabSize());
      positions[i] = i % options.sequence();
    }
    for (int i = 0; i < tokens; i++) {
      labels[i] = positions[i] == options.sequence() - 1 ? -100 : ids[i + 1];
    }
    for (int i = 0; i <= options.batch(); i++) {
      starts[i] = i * options.sequence();
    }
    return new MicroBatch(ids, labels, positions, starts);
  }
}
