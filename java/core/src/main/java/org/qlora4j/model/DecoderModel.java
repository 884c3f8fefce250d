// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.lora.LoraLayer;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * A causal language model: embedding, decoder blocks, final norm, output head.
 *
 * <p>{@link #forward} gives hidden states and {@link #logits} their logits; {@link #loss}
 * evaluates; {@link #trainingStep} adds the gradients of one micro-batch to whatever is trained
 * (adapters, or every weight). Owns its weights.
 */
public final class DecoderModel implements AutoCloseable {

  private final ModelConfig config;
  private final KernelPack pack;
  private final EmbeddingModule embedding;
  private final List<DecoderBlock> blocks;
  private final LinearLayer head;
  private final LossHead lossHead;
  private final @Nullable ParameterSet weights;
  private final List<TrainableModule> modules;
  private final List<AutoCloseable> memory;

  /**
   * Options of a training step.
   *
   * @param activationCheckpointing drop what blocks save and compute it again
   * @param checkpointEvery with it: keep the input of every so many blocks
   * @param save with it: what of every block is kept besides and not computed again
   * @param lossChunkRows tokens whose logits exist at one time
   * @param inputs with it: where what is kept goes, but for that of the last group; null for the
   *     pass's arena
   * @param regularization of the loss and the embeddings
   */
  public record StepOptions(
      boolean activationCheckpointing,
      int checkpointEvery,
      Set<CheckpointSave> save,
      int lossChunkRows,
      @Nullable LayerInputs inputs,
      Regularization regularization) {
    /** Checks the numbers. */
    public StepOptions {
      if (checkpointEvery < 1 || lossChunkRows < 1) {
        throw new IllegalArgumentException(
            "expected counts of at least 1, found " + checkpointEvery + " and " + lossChunkRows);
      }
      if ((inputs != null || !save.isEmpty()) && !activationCheckpointing) {
        throw new IllegalArgumentException("tensors are only kept with activation checkpointing");
      }
      save = Set.copyOf(save);
    }

    /** Without regularization. */
    public StepOptions(
        boolean activationCheckpointing,
        int checkpointEvery,
        Set<CheckpointSave> save,
        int lossChunkRows,
        @Nullable LayerInputs inputs) {
      this(
          activationCheckpointing,
          checkpointEvery,
          save,
          lossChunkRows,
          inputs,
          Regularization.NONE);
    }

    /** With checkpointing, the inputs of groups of blocks alone are kept, in the pass's arena. */
    public StepOptions(boolean activationCheckpointing, int checkpointEvery, int lossChunkRows) {
      this(activationCheckpointing, checkpointEvery, Set.of(), lossChunkRows, null);
    }

    /** With checkpointing, the input of every block is kept. */
    public StepOptions(boolean activationCheckpointing, int lossChunkRows) {
      this(activationCheckpointing, 1, lossChunkRows);
    }
  }

  DecoderModel(
      ModelConfig config,
      KernelPack pack,
      EmbeddingModule embedding,
      List<DecoderBlock> blocks,
      NormLayer finalNorm,
      LinearLayer head,
      @Nullable ParameterSet weights,
      List<NormLayer> norms,
      List<AutoCloseable> memory) {
    this.config = config;
    this.pack = pack;
    this.embedding = embedding;
    this.blocks = List.copyOf(blocks);
    this.head = head;
    this.lossHead = new LossHead(finalNorm, head, config.logitSoftcap());
    this.weights = weights;
    List<TrainableModule> all = new ArrayList<>();
    all.add(embedding);
    all.addAll(norms);
    all.addAll(linears());
    all.add(head);
    this.modules = List.copyOf(all);
    this.memory = List.copyOf(memory);
  }

  public ModelConfig config() {
    return config;
  }

  public KernelPack pack() {
    return pack;
  }

  /**
   * Every linear layer of the blocks, in the order of the checkpoint; the output head is not among
   * them.
   */
  public List<LinearLayer> linears() {
    return blocks.stream().flatMap(b -> b.linears().stream()).toList();
  }

  /**
   * Every module of the model: the embedding, the norms, the linear layers of the blocks and the
   * output head. What an adapter trains in full is among them.
   */
  public List<TrainableModule> modules() {
    return modules;
  }

  /**
   * Tells that trained tensors changed, so that what is computed from them only once, as the norms
   * of DoRA are, is computed again.
   */
  public void weightsChanged() {
    for (LinearLayer linear : linears()) {
      LoraLayer branch = linear.lora();
      if (branch != null && branch.dora() != null) {
        branch.dora().invalidate();
      }
    }
  }

  /** All weights as parameters, when the model was loaded to be trained in full; else null. */
  public @Nullable ParameterSet weights() {
    return weights;
  }

  /**
   * Hidden states after the last block, before the final norm: [tokens, hidden], in the pass's
   * arena.
   *
   * @param cache keys and values of earlier tokens, to be appended to; null without one
   */
  public DeviceTensor forward(Pass pass, SequenceBatch batch, @Nullable KvCache cache) {
    DeviceTensor x = embed(pass, batch);
    TensorArena arena = pass.arena();
    DeviceTensor out = pass.activation(batch.tokens(), config.hiddenSize());
    for (int i = 0; i < blocks.size(); i++) {
      var mark = arena.mark();
      blocks
          .get(i)
          .forward(pass, batch, x, out, cache == null ? null : cache.layer(i), KeptTensors.NONE);
      arena.release(mark);
      DeviceTensor free = x;
      x = out;
      out = free;
    }
    return x;
  }

  /** Logits of rows of {@link #forward}'s result: [rows, vocabulary] in the compute type. */
  public DeviceTensor logits(Pass pass, DeviceTensor hidden) {
    return lossHead.logits(pass, hidden);
  }

  /**
   * Sum of the cross entropy of all labelled tokens. labels: [tokens], the token that follows, or
   * -100.
   */
  public double loss(Pass pass, SequenceBatch batch, int[] labels, int chunkRows) {
    var mark = pass.arena().mark();
    double sum =
        lossHead.loss(
            pass, forward(pass, batch, null), labels, 1f, chunkRows, Regularization.NONE, null);
    pass.arena().release(mark);
    return sum;
  }

  /**
   * Forward and backward of one micro-batch: adds gradients of {@code scale} times the summed loss
   * to every trained tensor.
   *
   * <p>Without activation checkpointing what every block saves is kept. With it, blocks are taken
   * in groups of {@code checkpointEvery}, of which only the first block's input is kept; before the
   * backward of a group its other inputs are computed again, and each block runs again before its
   * own. So at one time there are the inputs of all groups, those inside of one group, and what one
   * block saves; the price is a second forward, and for all but the last block of a group a third.
   * With {@link StepOptions#save}, every block but the last keeps some tensors of its first forward
   * as well, and later ones do without the operators that gave them. With {@link
   * StepOptions#inputs}, what all groups but the last keep leaves the arena, where two inputs take
   * their turns.
   *
   * @return the sum of the losses of all labelled tokens, unscaled: their cross entropy, and what
   *     the regularization adds
   */
  public double trainingStep(
      Pass pass, SequenceBatch batch, int[] labels, float scale, StepOptions options) {
    TensorArena arena = pass.arena();
    var start = arena.mark();
    long tokens = batch.tokens();
    int count = blocks.size();
    // The two gradients of hidden states that the backward swaps lie below everything a block
    // saves, so that a block's saved
    // tensors can be freed as soon as its backward is done.
    DeviceTensor dout = pass.activation(tokens, config.hiddenSize());
    DeviceTensor dnext = pass.activation(tokens, config.hiddenSize());

    boolean checkpointing = options.activationCheckpointing();
    int every = options.checkpointEvery();
    // The backward of the last group comes next, so its inputs are not worth computing twice.
    int lastGroup = checkpointing ? (count - 1) / every * every : 0;
    @Nullable DeviceTensor[] inputs = new @Nullable DeviceTensor[count];
    TensorArena.Mark[] marks = new TensorArena.Mark[count];
    DecoderBlock.@Nullable Saved[] saved = new DecoderBlock.@Nullable Saved[count];
    DeviceTensor x = embed(pass, batch);
    double noise = options.regularization().noiseAlpha();
    if (noise > 0 && pass.training()) {
      EmbeddingNoise.add(pass, batch, x, noise);
    }
    KeptTensors[] kept = new KeptTensors[count];
    Arrays.fill(kept, KeptTensors.NONE);
    LayerInputs elsewhere = lastGroup > 0 ? options.inputs() : null;
    DeviceTensor spare = null;
    if (elsewhere != null) {
      elsewhere.begin(lastGroup / every, groupBytes(options, pass.compute(), tokens));
      spare = pass.activation(tokens, config.hiddenSize());
    }
    TensorArena.Mark turns = arena.mark();
    for (int first = 0; first < lastGroup; first += every) {
      int end = first + every;
      if (elsewhere != null && spare != null) {
        allocateKept(pass, tokens, options.save(), first, end, kept);
        forwardGroup(pass, batch, first, end, x, spare, kept);
        elsewhere.keep(first / every, tensors(x, first, end, kept));
        arena.release(turns);
        DeviceTensor free = x;
        x = spare;
        spare = free;
        continue;
      }
      inputs[first] = x;
      DeviceTensor out = pass.activation(tokens, config.hiddenSize());
      allocateKept(pass, tokens, options.save(), first, end, kept);
      marks[first] = arena.mark();
      forwardGroup(pass, batch, first, end, x, out, kept);
      arena.release(marks[first]);
      x = out;
    }
    for (int i = lastGroup; i < count; i++) {
      inputs[i] = x;
      DeviceTensor out = pass.activation(tokens, config.hiddenSize());
      boolean again = checkpointing && i < count - 1;
      if (again) {
        allocateKept(pass, tokens, options.save(), i, i + 1, kept);
      }
      marks[i] = arena.mark();
      DecoderBlock.Saved all = blocks.get(i).forward(pass, batch, x, out, null, kept[i]);
      if (again) {
        arena.release(marks[i]);
        kept[i] = kept[i].asFilled();
      } else {
        saved[i] = all;
      }
      x = out;
    }

    double sum =
        lossHead.loss(
            pass, x, labels, scale, options.lossChunkRows(), options.regularization(), dout);

    for (int i = count - 1; i >= 0; i--) {
      DeviceTensor input = inputs[i];
      if (input == null) {
        // The last block of a group that was dropped: whatever lay above the group is done.
        int first = i / every * every;
        if (elsewhere != null && spare != null) {
          arena.release(turns);
          allocateKept(pass, tokens, options.save(), first, i + 1, kept);
          elsewhere.restore(first / every, tensors(spare, first, i + 1, kept));
          fill(first, i + 1, kept);
          inputs[first] = spare;
          marks[first] = arena.mark();
        }
        arena.release(marks[first]);
        input = restoreInputs(pass, batch, first, i, inputs, marks, kept);
      }
      DecoderBlock.Saved all = saved[i];
      if (all == null) {
        all = blocks.get(i).forward(pass, batch, input, null, null, kept[i]);
      }
      boolean inputTrained =
          i > 0 || embedding.parameter() != null || blocks.get(0).trainsInputNorm();
      blocks.get(i).backward(pass, batch, all, dout, inputTrained ? dnext : null);
      arena.release(marks[i]);
      DeviceTensor done = dout;
      dout = dnext;
      dnext = done;
    }
    Parameter embeddingParameter = embedding.parameter();
    if (embeddingParameter != null) {
      scale(dout);
      TorchBridge.addRows(embeddingParameter.gradient(), batch.ids(), dout);
    }
    arena.release(start);
    return sum;
  }

  private void allocateKept(
      Pass pass, long tokens, Set<CheckpointSave> save, int first, int end, KeptTensors[] kept) {
    for (int i = first; i < end; i++) {
      kept[i] = KeptTensors.allocate(pass, tokens, blocks.get(i).parts(save));
    }
  }

  private static void fill(int first, int end, KeptTensors[] kept) {
    for (int i = first; i < end; i++) {
      kept[i] = kept[i].asFilled();
    }
  }

  /** A group's input and whatever else is kept of its blocks. */
  private static List<DeviceTensor> tensors(
      DeviceTensor input, int first, int end, KeptTensors[] kept) {
    List<DeviceTensor> tensors = new ArrayList<>();
    tensors.add(input);
    for (int i = first; i < end; i++) {
      tensors.addAll(kept[i].tensors());
    }
    return tensors;
  }

  /**
   * Bytes of what is kept of a block besides its input; the last block, which does not run again,
   * keeps nothing so.
   */
  public long keptBytes(int block, Set<CheckpointSave> save, DType compute, long tokens) {
    return KeptTensors.bytes(blocks.get(block).parts(save), compute, tokens);
  }

  /** Bytes that {@link LayerInputs} hold of the largest group, its input included. */
  public long groupBytes(StepOptions options, DType compute, long tokens) {
    int every = options.checkpointEvery();
    long most = 0;
    for (int first = 0; first + every < blocks.size(); first += every) {
      long bytes = 0;
      for (int i = first; i < first + every; i++) {
        bytes += keptBytes(i, options.save(), compute, tokens);
      }
      most = Math.max(most, bytes);
    }
    return LayerInputs.aligned(tokens * config.hiddenSize() * compute.bytes()) + most;
  }

  /**
   * Blocks from {@code first} to before {@code end}; what {@code kept} has room for is kept of
   * them.
   */
  private void forwardGroup(
      Pass pass,
      SequenceBatch batch,
      int first,
      int end,
      DeviceTensor x,
      DeviceTensor out,
      KeptTensors[] kept) {
    TensorArena arena = pass.arena();
    DeviceTensor from = x;
    DeviceTensor[] between = new DeviceTensor[Math.min(2, end - first - 1)];
    for (int i = 0; i < between.length; i++) {
      between[i] = pass.activation(batch.tokens(), config.hiddenSize());
    }
    for (int i = first; i < end; i++) {
      DeviceTensor to = i == end - 1 ? out : between[(i - first) % 2];
      var mark = arena.mark();
      blocks.get(i).forward(pass, batch, from, to, null, kept[i]);
      kept[i] = kept[i].asFilled();
      arena.release(mark);
      from = to;
    }
  }

  /**
   * Computes the inputs of the blocks after {@code first} to {@code last} again, with the marks to
   * which the arena goes back once a block's backward is done; gives the last.
   */
  private DeviceTensor restoreInputs(
      Pass pass,
      SequenceBatch batch,
      int first,
      int last,
      @Nullable DeviceTensor[] inputs,
      TensorArena.Mark[] marks,
      KeptTensors[] kept) {
    DeviceTensor x = Objects.requireNonNull(inputs[first]);
    for (int i = first; i < last; i++) {
      DeviceTensor out = pass.activation(batch.tokens(), config.hiddenSize());
      marks[i + 1] = pass.arena().mark();
      blocks.get(i).forward(pass, batch, x, out, null, kept[i]);
      pass.arena().release(marks[i + 1]);
      inputs[i + 1] = out;
      x = out;
    }
    return x;
  }

  private DeviceTensor embed(Pass pass, SequenceBatch batch) {
    DeviceTensor x = pass.arena().allocate(pass.compute(), batch.tokens(), config.hiddenSize());
    embedding.table().gather(batch.ids(), x, pass.arena());
    scale(x);
    return x;
  }

  /** Multiplies rows of the embedding, or their gradient, by the model's factor. */
  private void scale(DeviceTensor rows) {
    if (config.embeddingScale() != 1) {
      TorchBridge.scale(rows, config.embeddingScale());
    }
  }

  /**
   * Bytes on the device of the embedding, the head and the blocks' linear weights; norms and
   * biases, which are small, and adapters are not counted.
   */
  public long weightBytes() {
    long bytes = embedding.frozenBytes();
    for (LinearLayer linear : linears()) {
      bytes += linear.weight().bytes();
    }
    return config.tiedHead() ? bytes : bytes + head.weight().bytes();
  }

  @Override
  public void close() {
    for (AutoCloseable part : memory) {
      try {
        part.close();
      } catch (RuntimeException e) {
        throw e;
      } catch (Exception e) {
        throw new IllegalStateException("releasing a weight failed", e);
      }
    }
  }
}
