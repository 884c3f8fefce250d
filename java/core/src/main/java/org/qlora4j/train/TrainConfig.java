// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.data.SampleOrder;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.model.CheckpointSave;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.Regularization;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.ComputeDevice;

/**
 * What a training run does, read from YAML by {@link TrainConfigReader}. Paths are relative to the
 * working directory, as in other trainers. Every key with its aliases, default and meaning is in
 * {@link TrainConfigKeys} and in docs/configuration.md.
 *
 * @param model Hugging Face model directory; with {@link Init#RANDOM} its config.json and tokenizer
 *     are enough
 * @param init whether the base weights are loaded or drawn
 * @param method what is trained, and how the base is held
 * @param outputDir where the result and, below `checkpoints`, the checkpoints go
 * @param compute type of activations and matrix products
 * @param device where the model computes
 * @param seed of initial weights and dropout
 * @param threads CPU threads, 0 for as many as the machine allows
 * @param gradientCheckpointing keep only layer inputs in the forward pass and compute the rest
 *     again in the backward pass
 * @param checkpointEvery with it: keep the input of every so many layers
 * @param checkpointSave with it: what of every layer is kept besides and not computed again
 * @param activationOffloading with it: what is kept waits outside of device memory
 * @param pagingDirectory where files of pages lie on a CPU; null for the output directory
 * @param lossChunk tokens whose logits exist at one time
 * @param regularization of the training loss and the embeddings
 * @param memory what a run does with its memory plan
 */
public record TrainConfig(
    Path model,
    Init init,
    Method method,
    Path outputDir,
    Compute compute,
    ComputeDevice device,
    Data data,
    Quantization quantization,
    Lora lora,
    Optimizer optimizer,
    Schedule schedule,
    Output output,
    Samples samples,
    long seed,
    int threads,
    boolean gradientCheckpointing,
    int checkpointEvery,
    Set<CheckpointSave> checkpointSave,
    boolean activationOffloading,
    @Nullable Path pagingDirectory,
    int lossChunk,
    Regularization regularization,
    Memory memory) {

  /** Names of the two settings that a memory plan can change. */
  static final String MICRO_BATCH = "per_device_train_batch_size";

  static final String ACCUMULATION = "gradient_accumulation_steps";

  /** Names of two that are read of checkpoints. */
  static final String EMBEDDING_RATE = "loraplus_lr_embedding";

  static final String MODULES_TO_SAVE = "modules_to_save";

  /** Takes copies. */
  public TrainConfig {
    checkpointSave = Set.copyOf(checkpointSave);
  }

  /** Where the base weights come from. */
  public enum Init {
    CHECKPOINT,
    RANDOM
  }

  /** Every weight, an adapter on a base in 8 to 32 bits, or an adapter on a base in 4 bits. */
  public enum Method {
    FULL,
    LORA,
    QLORA;

    /** Whether an adapter is trained. */
    public boolean adapter() {
      return this != FULL;
    }
  }

  /** Type of activations and matrix products. */
  public enum Compute {
    BFLOAT16,
    FLOAT32
  }

  /** Precision of the LoRA branch: rounded to the compute type, or nothing of it below f32. */
  public enum LoraPrecision {
    FAST,
    FLOAT32
  }

  /** Table of 4-bit codes. */
  public enum QuantType {
    NF4,
    FP4
  }

  /** Codes of a base in 8 bits, with one scale a row. */
  public enum EightBit {
    INT8,
    FP8
  }

  /** AdamW with states in 32 or 8 bits, resident or paged. */
  public enum Optim {
    ADAMW(false, false),
    ADAMW_8BIT(true, false),
    PAGED_ADAMW_32BIT(false, true),
    PAGED_ADAMW_8BIT(true, true);

    private final boolean eightBit;
    private final boolean paged;

    Optim(boolean eightBit, boolean paged) {
      this.eightBit = eightBit;
      this.paged = paged;
    }

    /** Whether states are in 8 bits. */
    public boolean eightBit() {
      return eightBit;
    }

    /** Whether states are paged. */
    public boolean paged() {
      return paged;
    }

    /** What of it decides the trained weights. */
    String states() {
      return eightBit ? "8-bit states" : "32-bit states";
    }
  }

  /** How the learning rate changes; `cosine` and `linear` fall to zero. */
  public enum Scheduler {
    CONSTANT,
    CONSTANT_WITH_WARMUP,
    LINEAR,
    COSINE
  }

  /**
   * The examples.
   *
   * @param trainFiles .jsonl, .json or .txt files
   * @param evalFile held-out examples in a file of their own, or null
   * @param valSetSize held-out share (below 1) or number (1 and up) of each training file's
   *     examples; 0 for none
   * @param sequenceLength longest sequence in tokens
   * @param trainOnInputs whether prompts are learned too, not only completions
   * @param addEos whether the end-of-sequence token is appended and learned
   * @param promptTemplate text around `instruction` rows with {instruction} and {input}; "alpaca"
   *     for the usual one
   * @param chatTemplate "tokenizer" for the model's own (a plain one where it has none), "plain",
   *     or a path of a Jinja file
   * @param dataSeed of the split and of the order
   * @param order in which an epoch visits the examples
   * @param packing whether several examples share a row of up to {@code sequenceLength} tokens
   */
  public record Data(
      List<Path> trainFiles,
      @Nullable Path evalFile,
      double valSetSize,
      int sequenceLength,
      boolean trainOnInputs,
      boolean addEos,
      String promptTemplate,
      String chatTemplate,
      long dataSeed,
      SampleOrder order,
      boolean packing) {
    public Data {
      trainFiles = List.copyOf(trainFiles);
    }
  }

  /**
   * How the base is stored.
   *
   * @param type codes in 4 bits, used by {@link Method#QLORA}
   * @param doubleQuant with it: whether the blocks' scales are quantized too
   * @param blockSize with it: elements that share an absmax
   * @param eightBit codes in 8 bits, used by {@link Method#LORA}; null for a dense base
   * @param outlierThreshold with INT8: columns of the activations that hold a magnitude of at least
   *     this are multiplied in 16 bits; 0 for none
   */
  public record Quantization(
      QuantType type,
      boolean doubleQuant,
      int blockSize,
      @Nullable EightBit eightBit,
      double outlierThreshold) {}

  /**
   * The adapter.
   *
   * @param config what it is; with {@code initAdapter}, what that one is
   * @param initAdapter directory of an adapter that training goes on from, or null
   */
  public record Lora(LoraConfig config, LoraPrecision precision, @Nullable Path initAdapter) {
    /** Rank where no pattern says otherwise. */
    public int rank() {
      return config.rank();
    }

    /** Alpha where no pattern says otherwise. */
    public double alpha() {
      return config.alpha();
    }

    /** Names of linears; empty for all inside the blocks, or where an expression names them. */
    public List<String> targetModules() {
      return config.targets().names();
    }
  }

  /**
   * AdamW.
   *
   * @param maxGradNorm bound on the L2 norm of all gradients together; 0 for none
   * @param memoryBudget what of paged states is in memory
   * @param loraPlusRatio what the rate of b, and of vectors, is a multiple of (LoRA+); 1 for one
   *     rate
   * @param embeddingRate rate of a trained embedding; 0 for the common one
   */
  public record Optimizer(
      Optim optim,
      double learningRate,
      double weightDecay,
      double beta1,
      double beta2,
      double epsilon,
      double maxGradNorm,
      MemoryBudget memoryBudget,
      double loraPlusRatio,
      double embeddingRate) {}

  /**
   * Steps and the learning rate over them.
   *
   * @param microBatchSize sequences in one forward and backward pass
   * @param gradientAccumulationSteps micro-batches of one optimizer step
   * @param epochs passes over the examples, used where `maxSteps` is 0; may be a fraction
   * @param maxSteps optimizer steps, or 0
   * @param warmupSteps steps in which the rate grows from 0; where 0, warmupRatio of all steps
   */
  public record Schedule(
      int microBatchSize,
      int gradientAccumulationSteps,
      double epochs,
      int maxSteps,
      Scheduler scheduler,
      int warmupSteps,
      double warmupRatio) {

    /** The same with micro-batches of another size; the product of the two must stay. */
    public Schedule withMicroBatch(int size, int accumulation) {
      return new Schedule(
          size, accumulation, epochs, maxSteps, scheduler, warmupSteps, warmupRatio);
    }

    /** Number of optimizer steps when an epoch has `stepsPerEpoch` of them; at least 1. */
    public int totalSteps(int stepsPerEpoch) {
      return maxSteps > 0 ? maxSteps : (int) Math.max(1, Math.ceil(epochs * stepsPerEpoch));
    }

    /** Number of warm-up steps of `totalSteps`, rounded up as Hugging Face does. */
    public int warmup(int totalSteps) {
      return warmupSteps > 0 ? warmupSteps : (int) Math.ceil(totalSteps * warmupRatio);
    }

    /**
     * The share of the learning rate at step `step` (from 0) of `totalSteps`, by the formulas of
     * transformers' get_scheduler: warm-up step / warmup; then 1, or (total - step) / (total -
     * warmup), or (1 + cos(pi * (step - warmup) / (total - warmup))) / 2. `constant` has no
     * warm-up.
     */
    public double factor(int step, int totalSteps) {
      if (scheduler == Scheduler.CONSTANT) {
        return 1;
      }
      int warmup = warmup(totalSteps);
      if (step < warmup) {
        return (double) step / Math.max(1, warmup);
      }
      int rest = Math.max(1, totalSteps - warmup);
      return switch (scheduler) {
        case LINEAR -> Math.max(0, (double) (totalSteps - step) / rest);
        case COSINE -> Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (step - warmup) / rest)));
        default -> 1;
      };
    }
  }

  /**
   * What a run does with its memory plan.
   *
   * @param limit most memory it may use, in bytes; 0 for what the machine or the control group has
   * @param ignorePlan start although the plan does not fit
   * @param autoMicroBatch take a smaller micro-batch until it does
   */
  public record Memory(long limit, boolean ignorePlan, boolean autoMicroBatch) {}

  /** Element type of activations and matrix products. */
  public DType computeType() {
    return compute == Compute.FLOAT32 ? DType.F32 : DType.BF16;
  }

  /** Precision of the LoRA branch, as the operators name it. */
  public LoraCompute loraCompute() {
    return lora.precision() == LoraPrecision.FLOAT32 ? LoraCompute.F32 : LoraCompute.FAST;
  }

  /** How the base's linear weights are held, or null: as they are stored. */
  public @Nullable QuantizationConfig baseQuantization() {
    if (method == Method.LORA && quantization.eightBit() != null) {
      return switch (quantization.eightBit()) {
        case INT8 -> QuantizationConfig.int8((float) quantization.outlierThreshold());
        case FP8 -> QuantizationConfig.fp8();
      };
    }
    if (method != Method.QLORA) {
      return null;
    }
    WeightFormat format =
        quantization.type() == QuantType.NF4 ? WeightFormat.NF4 : WeightFormat.FP4;
    return new QuantizationConfig(format, quantization.blockSize(), quantization.doubleQuant());
  }

  /**
   * Refuses what is said of the adapter and does not fit the model, before weights are read.
   *
   * @throws InputException for targets that name no layer, an adapter to go on from that has no
   *     place, or a rate of an embedding that is not trained
   */
  public void checkAdapter(ModelConfig shape) {
    WeightNames names = WeightNames.of(shape);
    Path begun = lora.initAdapter();
    if (begun == null) {
      lora.config().targets().select(names.linears(), WeightNames.Module::path);
    } else {
      LoraAdapter.checkFits(begun, names);
    }
    WeightNames.Module embedding = names.module(WeightNames.Part.EMBEDDING, -1);
    if (optimizer.embeddingRate() > 0 && !lora.config().saves(embedding.path())) {
      throw new InputException(
          "loraplus_lr_embedding: expected no value unless modules_to_save has "
              + embedding.shortName()
              + ", the embedding, found "
              + optimizer.embeddingRate()
              + "; remove it, nothing is trained at that rate");
    }
  }

  /** The same with another method. */
  public TrainConfig withMethod(Method other) {
    return with(other, schedule, quantization);
  }

  /** LoRA on a base in 16 or 32 bits. */
  public TrainConfig withDenseBase() {
    Quantization q = quantization;
    return with(
        Method.LORA, schedule, new Quantization(q.type(), q.doubleQuant(), q.blockSize(), null, 0));
  }

  /** The same with other micro-batches. */
  public TrainConfig withSchedule(Schedule other) {
    return with(method, other, quantization);
  }

  private TrainConfig with(Method newMethod, Schedule newSchedule, Quantization newQuantization) {
    return new TrainConfig(
        model,
        init,
        newMethod,
        outputDir,
        compute,
        device,
        data,
        newQuantization,
        lora,
        optimizer,
        newSchedule,
        output,
        samples,
        seed,
        threads,
        gradientCheckpointing,
        checkpointEvery,
        checkpointSave,
        activationOffloading,
        pagingDirectory,
        lossChunk,
        regularization,
        memory);
  }

  /**
   * What is logged and saved, in optimizer steps; 0 switches one off.
   *
   * @param evalSteps steps between evaluations; 0: only before and after
   * @param saveSteps steps between checkpoints
   * @param saveTotalLimit newest checkpoints to keep; 0 for all
   */
  public record Output(int loggingSteps, int evalSteps, int saveSteps, int saveTotalLimit) {}

  /**
   * Texts generated before and after training, to see what it did.
   *
   * @param prompts as a user would give them: the text to continue, or for chat models the user's
   *     message
   * @param temperature 0 for greedy
   * @param topK 0 for all
   */
  public record Samples(
      List<String> prompts,
      int maxNewTokens,
      double temperature,
      int topK,
      double topP,
      double repetitionPenalty) {
    public Samples {
      prompts = List.copyOf(prompts);
    }
  }

  /**
   * The settings that decide the trained weights, by key in canonical text. A resumed run must have
   * the same; what only concerns output, logging, samples or speed is left out, and so are paths
   * (the model and the examples are compared by content). The device, the pack and the threads are
   * left out too: a run may go on elsewhere, and says so.
   */
  public SortedMap<String, String> trainingSettings() {
    SortedMap<String, String> s = new TreeMap<>();
    s.put("init", init.name());
    s.put("method", method.name());
    s.put("compute", compute.name());
    s.put("seed", Long.toString(seed));
    s.put("val_set_size", Double.toString(data.valSetSize()));
    s.put("sequence_length", Integer.toString(data.sequenceLength()));
    s.put("train_on_inputs", Boolean.toString(data.trainOnInputs()));
    s.put("add_eos", Boolean.toString(data.addEos()));
    s.put("prompt_template", data.promptTemplate());
    s.put("chat_template", data.chatTemplate());
    s.put("data_seed", Long.toString(data.dataSeed()));
    s.put("shuffle", Boolean.toString(data.order() != SampleOrder.SEQUENTIAL));
    // What earlier versions did not have is named only where it is used, so that their checkpoints
    // stay resumable.
    if (data.order() == SampleOrder.LENGTH_GROUPED) {
      s.put("group_by_length", "true");
    }
    if (data.packing()) {
      s.put("packing", "bfd");
    }
    if (regularization.labelSmoothing() > 0) {
      s.put("label_smoothing_factor", Double.toString(regularization.labelSmoothing()));
    }
    if (regularization.zLoss() > 0) {
      s.put("z_loss", Double.toString(regularization.zLoss()));
    }
    if (regularization.noiseAlpha() > 0) {
      s.put("neftune_noise_alpha", Double.toString(regularization.noiseAlpha()));
    }
    if (method == Method.FULL) {
      // The head's gradient is added up chunk by chunk.
      s.put("loss_chunk", Integer.toString(lossChunk));
    }
    if (method == Method.QLORA) {
      s.put("bnb_4bit_quant_type", quantization.type().name());
      s.put("bnb_4bit_use_double_quant", Boolean.toString(quantization.doubleQuant()));
      s.put("bnb_4bit_blocksize", Integer.toString(quantization.blockSize()));
    }
    EightBit eightBit = quantization.eightBit();
    if (method == Method.LORA && eightBit != null) {
      s.put("quantization", eightBit.name());
      if (quantization.outlierThreshold() > 0) {
        s.put("llm_int8_threshold", Double.toString(quantization.outlierThreshold()));
      }
    }
    if (method.adapter()) {
      putAdapter(s);
      s.put("lora_compute", lora.precision().name());
    }
    s.put("optim", optimizer.optim().states());
    s.put("learning_rate", Double.toString(optimizer.learningRate()));
    s.put("weight_decay", Double.toString(optimizer.weightDecay()));
    s.put("adam_beta1", Double.toString(optimizer.beta1()));
    s.put("adam_beta2", Double.toString(optimizer.beta2()));
    s.put("adam_epsilon", Double.toString(optimizer.epsilon()));
    s.put("max_grad_norm", Double.toString(optimizer.maxGradNorm()));
    s.put(MICRO_BATCH, Integer.toString(schedule.microBatchSize()));
    s.put(ACCUMULATION, Integer.toString(schedule.gradientAccumulationSteps()));
    s.put("num_train_epochs", schedule.maxSteps() > 0 ? "" : Double.toString(schedule.epochs()));
    s.put("max_steps", Integer.toString(schedule.maxSteps()));
    s.put("lr_scheduler_type", schedule.scheduler().name());
    s.put("warmup_steps", Integer.toString(schedule.warmupSteps()));
    s.put("warmup_ratio", Double.toString(schedule.warmupRatio()));
    return s;
  }

  /** Options that are seldom used only where they are. */
  private void putAdapter(SortedMap<String, String> s) {
    LoraConfig adapter = lora.config();
    TargetModules targets = adapter.targets();
    s.put("lora_r", Integer.toString(adapter.rank()));
    s.put("lora_alpha", Double.toString(adapter.alpha()));
    s.put("lora_dropout", Double.toString(adapter.dropout()));
    s.put(
        "lora_target_modules",
        targets.expression() != null
            ? targets.expression()
            : String.join(",", new TreeSet<>(targets.names())));
    s.put("use_rslora", Boolean.toString(adapter.rsLora()));
    putUnless(s, "exclude_modules", "[]", new TreeSet<>(targets.exclude()));
    putUnless(s, "exclude_modules", "null", targets.excludeExpression());
    putUnless(s, "layers_to_transform", "[]", new TreeSet<>(targets.layers()));
    putUnless(s, "layers_pattern", "[]", targets.layersPattern());
    putUnless(s, "rank_pattern", "{}", adapter.rankPattern());
    putUnless(s, "alpha_pattern", "{}", adapter.alphaPattern());
    putUnless(s, "use_dora", "false", adapter.dora());
    putUnless(s, "bias", LoraConfig.Bias.NONE.name(), adapter.bias());
    putUnless(s, MODULES_TO_SAVE, "[]", new TreeSet<>(adapter.modulesToSave()));
    putUnless(s, "init_lora_weights", LoraInit.DEFAULT.toString(), adapter.init());
    putUnless(s, "loraplus_lr_ratio", "1.0", optimizer.loraPlusRatio());
    putUnless(s, EMBEDDING_RATE, "0.0", optimizer.embeddingRate());
  }

  private static void putUnless(
      SortedMap<String, String> s, String key, String usual, @Nullable Object value) {
    String text = String.valueOf(value);
    if (!text.equals(usual)) {
      s.put(key, text);
    }
  }

  /** "key: saved X, now Y" for each setting that differs. */
  static List<String> differences(Map<String, String> saved, Map<String, String> now) {
    TreeSet<String> keys = new TreeSet<>(now.keySet());
    keys.addAll(saved.keySet());
    List<String> differences = new ArrayList<>();
    for (String key : keys) {
      String before = saved.getOrDefault(key, "unset");
      String after = now.getOrDefault(key, "unset");
      if (!before.equals(after)) {
        differences.add(Text.cut(Text.oneLine(key), 120) + ": " + Text.difference(before, after));
      }
    }
    return differences;
  }
}
