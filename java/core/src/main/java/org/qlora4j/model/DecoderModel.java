// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
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
  private final DeviceTensor embedding;
  private final List<DecoderBlock> blocks;
  private final NormLayer finalNorm;
  private final LinearLayer head;
  private final LossHead lossHead;
  private final @Nullable ParameterSet weights;
  private final @Nullable Parameter embeddingParameter;
  private final List<AutoCloseable> memory;

  /** Options of a training step. */
  public record StepOptions(boolean activationCheckpointing, int lossChunkRows) {}

  DecoderModel(
      ModelConfig config,
      KernelPack pack,
      DeviceTensor embedding,
      List<DecoderBlock> blocks,
      NormLayer finalNorm,
      LinearLayer head,
      @Nullable ParameterSet weights,
      @Nullable Parameter embeddingParameter,
      List<AutoCloseable> memory) {
    this.config = config;
    this.pack = pack;
    this.embedding = embedding;
    this.blocks = List.copyOf(blocks);
    this.finalNorm = finalNorm;
    this.head = head;
    this.lossHead = new LossHead(finalNorm, head);
    this.weights = weights;
    this.embeddingParameter = embeddingParameter;
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
      blocks.get(i).forward(pass, batch, x, out, cache == null ? null : cache.layer(i));
      arena.release(mark);
      DeviceTensor free = x;
      x = out;
      out = free;
    }
    return x;
  }

  /** Logits of rows of {@link #forward}'s result: [rows, vocabulary] in the compute type. */
  public DeviceTensor logits(Pass pass, DeviceTensor hidden) {
    DeviceTensor h = pass.activation(hidden.rows(), hidden.cols());
    finalNorm.forward(pass, hidden, h);
    DeviceTensor logits = pass.activation(hidden.rows(), head.out());
    head.forward(pass, h, null, logits);
    return logits;
  }

  /**
   * Sum of the cross entropy of all labelled tokens. labels: [tokens], the token that follows, or
   * -100.
   */
  public double loss(Pass pass, SequenceBatch batch, int[] labels, int chunkRows) {
    var mark = pass.arena().mark();
    double sum = lossHead.loss(pass, forward(pass, batch, null), labels, 1f, chunkRows, null);
    pass.arena().release(mark);
    return sum;
  }

  /**
   * Forward and backward of one micro-batch: adds gradients of {@code scale} times the summed loss
   * to every trained tensor.
   *
   * <p>With activation checkpointing only the input of each block is kept, and the block runs again
   * before its backward; without it, what every block saves is kept.
   *
   * @return the sum of the cross entropy of all labelled tokens, unscaled
   */
  public double trainingStep(
      Pass pass, SequenceBatch batch, int[] labels, float scale, StepOptions options) {
    TensorArena arena = pass.arena();
    var start = arena.mark();
    long tokens = batch.tokens();
    // The two gradients of hidden states that the backward swaps lie below everything a block
    // saves, so that a block's saved
    // tensors can be freed as soon as its backward is done.
    DeviceTensor dout = pass.activation(tokens, config.hiddenSize());
    DeviceTensor dnext = pass.activation(tokens, config.hiddenSize());

    List<DeviceTensor> inputs = new ArrayList<>();
    List<TensorArena.Mark> marks = new ArrayList<>();
    List<DecoderBlock.@Nullable Saved> saved = new ArrayList<>();
    DeviceTensor x = embed(pass, batch);
    for (int i = 0; i < blocks.size(); i++) {
      inputs.add(x);
      DeviceTensor out = pass.activation(tokens, config.hiddenSize());
      var mark = arena.mark();
      DecoderBlock.Saved kept = blocks.get(i).forward(pass, batch, x, out, null);
      // The last block's backward comes next, so its saved tensors are not worth computing twice.
      boolean drop = options.activationCheckpointing() && i < blocks.size() - 1;
      if (drop) {
        arena.release(mark);
      }
      marks.add(mark);
      saved.add(drop ? null : kept);
      x = out;
    }

    double sum = lossHead.loss(pass, x, labels, scale, options.lossChunkRows(), dout);

    for (int i = blocks.size() - 1; i >= 0; i--) {
      DecoderBlock.Saved kept = saved.get(i);
      if (kept == null) {
        kept = blocks.get(i).forward(pass, batch, inputs.get(i), null, null);
      }
      boolean inputTrained = i > 0 || embeddingParameter != null;
      blocks.get(i).backward(pass, batch, kept, dout, inputTrained ? dnext : null);
      arena.release(marks.get(i));
      DeviceTensor done = dout;
      dout = dnext;
      dnext = done;
    }
    if (embeddingParameter != null) {
      TorchBridge.addRows(embeddingParameter.gradient(), batch.ids(), dout);
    }
    arena.release(start);
    return sum;
  }

  private DeviceTensor embed(Pass pass, SequenceBatch batch) {
    DeviceTensor x = pass.arena().allocate(pass.compute(), batch.tokens(), config.hiddenSize());
    TorchBridge.gatherRows(embedding, batch.ids(), x);
    return x;
  }

  /**
   * Bytes on the device of the embedding, the head and the blocks' linear weights; norms and
   * biases, which are small, and adapters are not counted.
   */
  public long weightBytes() {
    long bytes = embedding.bytes();
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
