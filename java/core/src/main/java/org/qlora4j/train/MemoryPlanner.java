// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.Arrays;
import java.util.Set;
import java.util.function.IntPredicate;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.InputException;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.Weight;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.CheckpointSave;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.LinearLayer;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.tensor.TensorArena;

/**
 * Finds what a training run will hold, by letting the code that trains run on a pack that only
 * counts ({@link KernelPack#isDryRun}): the loader allocates every weight, the layers every saved
 * tensor, and the operators ask for their workspaces, without memory behind any of it.
 */
public final class MemoryPlanner implements AutoCloseable {

  /**
   * What the process grows by between the opening of its pack and its largest step, beyond what is
   * counted: Java's heap and compiled code, libtorch's first calls, and memory the C library keeps
   * between allocations. Measured; docs/memory.md has the runs.
   */
  static final long PROCESS_GROWTH = 96L << 20;

  /** What a tokenizer and examples add to a process that has not loaded them yet. Measured. */
  public static final long TOKENIZER_AND_EXAMPLES = 56L << 20;

  private final KernelPack counting;
  private final ModelConfig model;
  private final @Nullable ModelCheckpoint checkpoint;
  private final long processBytes;
  private @Nullable Prepared latest;

  /**
   * @param checkpoint the weights, of which only the headers are read; null: as the config says
   * @param processBytes memory of the process beside what is counted
   */
  private MemoryPlanner(
      KernelPack counting,
      ModelConfig model,
      @Nullable ModelCheckpoint checkpoint,
      long processBytes) {
    this.counting = counting;
    this.model = model;
    this.checkpoint = checkpoint;
    this.processBytes = processBytes;
  }

  /**
   * A planner for the pack that {@code config} would train with. Close it before {@code
   * checkpoint}.
   *
   * @param loadedLater memory that this process, other than now, will have when it trains
   */
  public static MemoryPlanner open(
      TrainConfig config,
      ModelConfig model,
      @Nullable ModelCheckpoint checkpoint,
      long loadedLater) {
    KernelPack counting =
        config.device().open(PackOptions.defaults().withThreads(config.threads()).forDryRun());
    return new MemoryPlanner(
        counting,
        model,
        checkpoint,
        MemoryUse.now().residentBytes() + PROCESS_GROWTH + loadedLater);
  }

  /** The pack whose workspaces are counted. */
  public KernelPack pack() {
    return counting;
  }

  /** Bits the checkpoint's linear weights are stored in, 4 or 8; 0 where they are not quantized. */
  public int storedBits() {
    ModelCheckpoint weights = checkpoint;
    return weights == null
        ? 0
        : WeightNames.of(model).linears().stream()
            .mapToInt(module -> QuantizedTensors.storedBits(weights, module.weight()))
            .max()
            .orElse(0);
  }

  /**
   * Whether a method can train on the checkpoint as it is stored: full trains no quantized weights,
   * and qlora takes no 8-bit ones.
   */
  public boolean trains(TrainConfig.Method method) {
    return switch (method) {
      case FULL -> storedBits() == 0;
      case LORA -> true;
      case QLORA -> storedBits() != 8;
    };
  }

  /**
   * The plan of a run with this configuration.
   *
   * @param sequence tokens of each sequence of a micro-batch
   * @throws InputException for a micro-batch that no machine has the memory for
   */
  public MemoryPlan plan(TrainConfig config, int sequence, int batch) {
    return plan(config, sequence, batch, sequence);
  }

  /**
   * The same for sequences of unequal length. Most of a step grows with its tokens alone, but
   * capped attention's scores ({@link org.qlora4j.tensor.SoftcapAttention}) with the length of one
   * sequence.
   *
   * @param sequence tokens of a row on average, rounded up
   * @param longest tokens of the longest sequence; several may share a row
   */
  MemoryPlan plan(TrainConfig config, int sequence, int batch, int longest) {
    if ((long) sequence * batch > MOST_TOKENS) {
      throw new InputException(
          "per_device_train_batch_size: expected a micro-batch of at most "
              + MOST_TOKENS
              + " tokens, found "
              + batch
              + " sequences of "
              + sequence);
    }
    Prepared prepared = prepare(config);
    // Only what this step asks for counts, not what an earlier, larger one did.
    counting.releaseWorkspace();
    int[] starts = starts(Math.multiplyExact(sequence, batch), batch, longest);
    long withLoss = step(config, prepared.decoder(), starts, true);
    long withoutLoss = step(config, prepared.decoder(), starts, false);
    long workspace = counting.workspaceBytes();
    long attention = counting.workspaceBytes(operator -> operator.startsWith("attention_"));
    long others = counting.workspaceBytes(operator -> !operator.startsWith("attention_"));
    long attentionWorkspace = Math.max(0, attention - others);
    long inputs = inputBytes(config, sequence, batch);
    long kept = keptBytes(config, prepared.decoder(), sequence, batch);
    long attentionTensors = attentionBytes(config, prepared.decoder(), sequence, batch);
    MemoryPlan plan =
        new MemoryPlan(
            sequence,
            batch,
            prepared.linear(),
            prepared.absmax(),
            prepared.other(),
            prepared.adapters(),
            prepared.gradients(),
            prepared.states(),
            inputs,
            kept,
            withoutLoss - inputs - kept - attentionTensors,
            attentionTensors,
            withLoss - withoutLoss,
            workspace - attentionWorkspace,
            attentionWorkspace,
            0,
            processBytes);
    return plan.withExtra(
        Math.max(prepared.rounded(), prepared.loadingPeak() - plan.deviceBytes()));
  }

  /**
   * What a run with this configuration holds from its first step to its last: weights, adapters,
   * gradients and optimizer states. The parts of a step, and the process, are 0.
   */
  public MemoryPlan held(TrainConfig config) {
    Prepared prepared = prepare(config);
    return new MemoryPlan(
        0,
        0,
        prepared.linear(),
        prepared.absmax(),
        prepared.other(),
        prepared.adapters(),
        prepared.gradients(),
        prepared.states(),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0);
  }

  /**
   * A model that was loaded without memory, and what it holds.
   *
   * @param loadingPeak most that loading holds at once
   * @param rounded of the largest tensor beside everything else, while the result is written
   */
  private record Prepared(
      TrainConfig config,
      Resources resources,
      DecoderModel decoder,
      long linear,
      long absmax,
      long other,
      long adapters,
      long gradients,
      long states,
      long loadingPeak,
      long rounded) {}

  private Prepared prepare(TrainConfig config) {
    Prepared last = latest;
    if (last != null && last.config().equals(config.withSchedule(last.config().schedule()))) {
      return last;
    }
    forget();
    Resources resources = new Resources();
    try {
      Prepared made = prepare(config, resources);
      latest = made;
      return made;
    } catch (RuntimeException e) {
      resources.close();
      throw e;
    }
  }

  private Prepared prepare(TrainConfig config, Resources resources) {
    counting.releaseWorkspace();
    counting.resetPeak();
    DecoderModel decoder = resources.own(load(config));
    long loadingPeak = counting.peakAllocatedBytes() + decompositionBytes(config);
    long linear = 0;
    long absmax = 0;
    for (LinearLayer layer : decoder.linears()) {
      Weight weight = layer.weight();
      long codes =
          switch (weight.format()) {
            case DENSE -> weight.bytes();
            case NF4, FP4 -> (weight.rows() * weight.cols() + 1) / 2;
            case INT8, FP8 -> weight.rows() * weight.cols();
          };
      linear += codes;
      absmax += weight.bytes() - codes;
    }
    long weights = held();
    ParameterSet trained = decoder.weights();
    if (trained == null) {
      LoraAdapter adapter = resources.own(TrainingRun.allocate(counting, config, decoder));
      adapter.attach(decoder.linears());
      trained = adapter.parameters();
    }
    long adapters = held() - weights;
    trained.allocateGradients();
    return new Prepared(
        config,
        resources,
        decoder,
        linear,
        absmax,
        weights - linear - absmax,
        adapters,
        held() - weights - adapters,
        PlannedStates.of(config.optimizer())
            .bytes(trained.parameters().stream().map(p -> p.value().elements()).toList()),
        loadingPeak,
        config.method() == TrainConfig.Method.FULL ? roundedBytes(trained) : 0);
  }

  /**
   * What decomposing the largest adapted weight takes while the base is loaded: the weight and its
   * rounded copy, both factors, their product and LAPACK's workspace, each of its size in f32.
   */
  private long decompositionBytes(TrainConfig config) {
    LoraConfig lora = config.lora().config();
    if (!config.method().adapter() || !lora.init().fromWeights()) {
      return 0;
    }
    return WeightNames.of(model).linears().stream()
        .filter(module -> lora.targets(module.path()))
        .mapToLong(module -> 6 * module.rows() * module.cols() * Float.BYTES)
        .max()
        .orElse(0);
  }

  private void forget() {
    if (latest != null) {
      latest.resources().close();
      latest = null;
    }
  }

  /** Allocated but for the workspace, which has a part of its own. */
  private long held() {
    return counting.allocatedBytes() - counting.workspaceBytes();
  }

  private DecoderModel load(TrainConfig config) {
    DType compute = config.computeType();
    ModelLoader.Options options =
        new ModelLoader.Options(compute, config.baseQuantization(), !config.method().adapter());
    if (checkpoint != null) {
      return ModelLoader.load(counting, model, checkpoint, options, Progress.none());
    }
    DType stored = model.dtype();
    return ModelLoader.dryRun(counting, model, options, stored == null ? DType.BF16 : stored);
  }

  /**
   * Where sequences start, and the end: one of {@code longest} tokens, and what is left in at least
   * {@code batch} - 1 others of about one length, none longer.
   */
  private static int[] starts(int tokens, int batch, int longest) {
    int first = Math.min(longest, tokens);
    int rest = tokens - first;
    int others = Math.min(rest, Math.max(batch - 1, (rest + first - 1) / first));
    int[] starts = new int[others + 2];
    for (int i = 0; i <= others; i++) {
      starts[i + 1] = first + (int) ((long) rest * i / Math.max(1, others));
    }
    return starts;
  }

  /** Most that a micro-batch of these sequences holds on the stack of tensors. */
  private long step(TrainConfig config, DecoderModel decoder, int[] starts, boolean labelled) {
    // As after an optimizer step.
    decoder.weightsChanged();
    int tokens = starts[starts.length - 1];
    int[] positions = new int[tokens];
    int[] labels = new int[tokens];
    Arrays.fill(labels, labelled ? 0 : CrossEntropy.IGNORE);
    for (int s = 0; s + 1 < starts.length; s++) {
      for (int i = starts[s]; i < starts[s + 1]; i++) {
        positions[i] = i - starts[s];
      }
      labels[starts[s + 1] - 1] = CrossEntropy.IGNORE;
    }
    try (PagedInputs inputs = TrainingRun.pagedInputs(config, decoder, tokens);
        TensorArena arena = new TensorArena(counting)) {
      Pass pass =
          new Pass(counting, arena, config.computeType(), config.loraCompute(), 0, 0, 0, true);
      decoder.trainingStep(
          pass,
          SequenceBatch.of(arena, new int[tokens], positions, starts),
          labels,
          1,
          TrainingRun.stepOptions(config, inputs));
      return arena.peakBytes() + (inputs == null ? 0 : inputs.deviceBytes());
    }
  }

  /**
   * Inputs of the layers that keep theirs, the last one's output, and two gradients of that size.
   */
  private long inputBytes(TrainConfig config, int sequence, int batch) {
    long one = (long) sequence * batch * model.hiddenSize() * config.computeType().bytes();
    long every = config.gradientCheckpointing() ? config.checkpointEvery() : 1;
    // Between two inputs that are kept, those of one group of layers exist again in the backward.
    int groups = Math.toIntExact((model.layers() + every - 1) / every);
    boolean elsewhere = config.activationOffloading() && groups > 1;
    long kept = elsewhere ? PagedInputs.residentPages(groups - 1) + 2 : groups;
    return (kept + (every == 1 ? 0 : every) + 3) * one;
  }

  /** What else is kept, where a micro-batch holds most: when the last layer has run. */
  private long keptBytes(TrainConfig config, DecoderModel decoder, int sequence, int batch) {
    if (config.checkpointSave().isEmpty()) {
      return 0;
    }
    long tokens = (long) sequence * batch;
    int every = config.checkpointEvery();
    int lastGroup = (model.layers() - 1) / every * every;
    long bytes = 0;
    for (int i = config.activationOffloading() ? lastGroup : 0; i < model.layers() - 1; i++) {
      bytes += decoder.keptBytes(i, config.checkpointSave(), config.computeType(), tokens);
    }
    if (config.activationOffloading() && lastGroup > 0) {
      long page =
          decoder.groupBytes(TrainingRun.stepOptions(config, null), config.computeType(), tokens);
      long input = tokens * model.hiddenSize() * config.computeType().bytes();
      bytes += PagedInputs.residentPages(lastGroup / every) * (page - input);
    }
    return bytes;
  }

  /** What attention leaves for its backward in the layers that save everything. */
  private long attentionBytes(TrainConfig config, DecoderModel decoder, int sequence, int batch) {
    int first = config.gradientCheckpointing() ? model.layers() - 1 : 0;
    long bytes = 0;
    for (int i = first; i < model.layers(); i++) {
      bytes +=
          decoder.keptBytes(
              i, Set.of(CheckpointSave.ATTENTION), config.computeType(), (long) sequence * batch);
    }
    return bytes;
  }

  private long roundedBytes(ParameterSet trained) {
    DType stored = model.dtype();
    if (stored == null || stored == DType.F32) {
      return 0;
    }
    long largest = 0;
    for (Parameter parameter : trained.parameters()) {
      largest = Math.max(largest, parameter.value().elements());
    }
    return largest * stored.bytes();
  }

  /**
   * The largest micro-batch of at most {@code most} sequences whose plan stays within {@code
   * limit}, or 0.
   */
  public int largestBatch(TrainConfig config, int sequence, int most, long limit) {
    int bound = (int) Math.min(most, MOST_TOKENS / sequence);
    return largest(bound, n -> plan(config, sequence, n).total() <= limit);
  }

  /** The longest sequence of at most {@code most} tokens that does, or 0. */
  public int longestSequence(TrainConfig config, int batch, int most, long limit) {
    int bound = (int) Math.min(most, MOST_TOKENS / batch);
    return largest(bound, n -> plan(config, n, batch).total() <= limit);
  }

  /** A micro-batch beyond this needs more memory than any machine of today has. */
  private static final long MOST_TOKENS = 1 << 22;

  /** The largest number from 1 to {@code bound} that fits, where smaller ones do too; 0: none. */
  static int largest(int bound, IntPredicate fits) {
    int low = 0;
    int high = bound + 1;
    for (int n = 1; n < high; n *= 2) {
      if (!fits.test(n)) {
        high = n;
        break;
      }
      low = n;
    }
    while (high - low > 1) {
      int middle = low + (high - low) / 2;
      if (fits.test(middle)) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }

  @Override
  public void close() {
    forget();
    counting.close();
  }
}
