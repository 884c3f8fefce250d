// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.List;

/**
 * What a training run will hold at its peak, part by part, in bytes. {@link MemoryPlanner} makes
 * it.
 *
 * @param sequence tokens of a sequence
 * @param batch sequences of a micro-batch
 * @param linearWeights the blocks' linear weights: codes, or dense
 * @param absmax scales of the quantized weights, as the pack keeps them
 * @param otherWeights embedding, head, norms, biases
 * @param adapters low-rank matrices, f32
 * @param gradients of everything trained, f32
 * @param optimizerStates AdamW's moments
 * @param layerInputs hidden states kept between forward and backward, and their gradients
 * @param keptTensors what else gradient checkpointing keeps of the layers that run again
 * @param layers what the layers save and their backward needs at its largest: one layer with
 *     gradient checkpointing, else all; but for attention
 * @param attentionTensors output and log-sum-exp of attention that these layers save
 * @param loss logits of a chunk and the loss, beyond what the layers then have already freed
 * @param otherWorkspace scratch memory of all kernels but attention's
 * @param attentionWorkspace what attention's needs beyond that
 * @param extra what loading or writing the result needs beyond all that
 * @param process Java, libraries, tokenizer, examples, allocator
 */
public record MemoryPlan(
    int sequence,
    int batch,
    long linearWeights,
    long absmax,
    long otherWeights,
    long adapters,
    long gradients,
    long optimizerStates,
    long layerInputs,
    long keptTensors,
    long layers,
    long attentionTensors,
    long loss,
    long otherWorkspace,
    long attentionWorkspace,
    long extra,
    long process) {

  /** A named part. */
  public record Part(String key, String name, long bytes) {}

  /** All parts, in order. */
  public List<Part> parts() {
    return List.of(
        new Part("linear_weights", "linear weights", linearWeights),
        new Part("absmax", "their scales (absmax)", absmax),
        new Part("other_weights", "embedding, head, norms", otherWeights),
        new Part("adapters", "adapters", adapters),
        new Part("gradients", "gradients", gradients),
        new Part("optimizer_states", "optimizer states", optimizerStates),
        new Part("layer_inputs", "layer inputs", layerInputs),
        new Part("kept_tensors", "kept besides (checkpoint_save)", keptTensors),
        new Part("layers", "layers' forward and backward", layers),
        new Part("attention", "attention", attentionTensors + attentionWorkspace),
        new Part("loss", "logits and loss", loss),
        new Part("workspace", "other kernels' workspace", otherWorkspace),
        new Part("extra", "loading, writing the result", extra),
        new Part("process", "Java, libraries, allocator", process));
  }

  MemoryPlan withExtra(long bytes) {
    return new MemoryPlan(
        sequence,
        batch,
        linearWeights,
        absmax,
        otherWeights,
        adapters,
        gradients,
        optimizerStates,
        layerInputs,
        keptTensors,
        layers,
        attentionTensors,
        loss,
        otherWorkspace,
        attentionWorkspace,
        Math.max(0, bytes),
        process);
  }

  /** The base as it is held. */
  public long weights() {
    return linearWeights + absmax + otherWeights;
  }

  /** What a step holds on its stack. */
  public long activations() {
    return layerInputs + keptTensors + layers + attentionTensors + loss;
  }

  /** Scratch memory of the kernels: as large as the hungriest operator's. */
  public long workspace() {
    return otherWorkspace + attentionWorkspace;
  }

  /** Most memory of the kernels' device. */
  public long deviceBytes() {
    return total() - process;
  }

  /** The process's largest resident memory (VmHWM) where the kernels' device is the CPU. */
  public long total() {
    return parts().stream().mapToLong(Part::bytes).sum();
  }
}
