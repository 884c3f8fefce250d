// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.file.Path;
import java.util.List;

/**
 * What a run did.
 *
 * @param output directory of the adapter, or of the model for method full
 * @param steps optimizer steps of the whole run
 * @param trainedParameters elements that were trained
 * @param totalParameters elements of the base model
 * @param initialEvalLoss mean loss per token on the held-out examples before training; NaN without
 *     any
 * @param finalEvalLoss the same after training
 * @param finalTrainLoss loss of the last step
 * @param trainedSeconds time in optimizer steps
 * @param tokensPerSecond tokens through the model per second of optimizer steps
 * @param peakBytes most resident memory of the process (VmHWM)
 * @param memory what the memory of the kernels' device holds
 * @param optimizer what the optimizer's states take in all, and how their pages moved
 * @param plan what was planned before
 * @param chat whether the examples are conversations, and sample prompts users' messages
 * @param samples texts before and after
 */
public record TrainingSummary(
    Path output,
    int steps,
    long trainedParameters,
    long totalParameters,
    double initialEvalLoss,
    double finalEvalLoss,
    double finalTrainLoss,
    double trainedSeconds,
    double tokensPerSecond,
    long peakBytes,
    Memory memory,
    OptimizerMemory optimizer,
    MemoryPlan plan,
    boolean chat,
    List<Sample> samples) {

  public TrainingSummary {
    samples = List.copyOf(samples);
  }

  /**
   * Bytes by what they hold.
   *
   * @param weights the base, quantized or not
   * @param adapters trained low-rank tensors; 0 for method full, whose weights are trained
   * @param gradients of everything trained
   * @param optimizerStates first and second moments; of paged ones what is resident
   * @param activations most that a step held at once: saved tensors, activations, their gradients,
   *     logits of a chunk
   * @param workspace scratch memory of the kernels
   */
  public record Memory(
      long weights,
      long adapters,
      long gradients,
      long optimizerStates,
      long activations,
      long workspace) {

    /** All of it. */
    public long total() {
      return weights + adapters + gradients + optimizerStates + activations + workspace;
    }
  }

  /** One prompt's texts; {@code before} is empty for a prompt that was added when a run resumed. */
  public record Sample(String prompt, String before, String after) {}
}
