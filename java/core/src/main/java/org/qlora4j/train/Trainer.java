// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.List;
import java.util.function.IntToDoubleFunction;
import org.qlora4j.common.InputException;
import org.qlora4j.data.MicroBatch;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;

/**
 * Optimizer steps on a model: gradients of all micro-batches, clipping, update. Knows nothing of
 * files and configuration; {@link TrainingRun} does.
 */
public final class Trainer {

  private final DecoderModel model;
  private final ParameterSet trained;
  private final AdamWOptimizer optimizer;
  private final IntToDoubleFunction learningRates;
  private final Pass pass;
  private final DecoderModel.StepOptions options;

  /**
   * One optimizer step's figures.
   *
   * @param loss mean cross entropy over the step's label tokens, before the update
   * @param gradNorm global gradient norm before clipping
   * @param learningRate rate of the update
   * @param tokens tokens that went through the model
   * @param labelTokens tokens that counted in the loss
   */
  public record StepResult(
      double loss, double gradNorm, double learningRate, long tokens, long labelTokens) {}

  /**
   * @param trained what the optimizer updates; its gradients are allocated
   * @param learningRates rate of each optimizer step, from 0
   * @param pass a training pass
   */
  public Trainer(
      DecoderModel model,
      ParameterSet trained,
      AdamWOptimizer optimizer,
      IntToDoubleFunction learningRates,
      Pass pass,
      DecoderModel.StepOptions options) {
    this.model = model;
    this.trained = trained;
    this.optimizer = optimizer;
    this.learningRates = learningRates;
    this.pass = pass;
    this.options = options;
  }

  /**
   * Optimizer step number {@code step}, from 0. Every micro-batch's loss is divided by the label
   * tokens of the whole step, so that the result does not depend on how the step was split.
   *
   * @throws InputException when no token counts, or the loss or a gradient is not finite
   */
  public StepResult step(int step, List<MicroBatch> microBatches) {
    long labelTokens = 0;
    long tokens = 0;
    for (MicroBatch microBatch : microBatches) {
      labelTokens += microBatch.labelTokens();
      tokens += microBatch.tokens();
    }
    if (labelTokens == 0) {
      throw new InputException(
          "step "
              + (step + 1)
              + " has no token that counts in the loss; are all completions empty or cut off by sequence_length?");
    }
    trained.zeroGradients();
    double sum = 0;
    for (int i = 0; i < microBatches.size(); i++) {
      sum += gradients(pass.at(step, i), microBatches.get(i), 1f / labelTokens);
    }
    double learningRate = learningRates.applyAsDouble(step);
    double loss = sum / labelTokens;
    if (!Double.isFinite(loss)) {
      throw new DivergedException(notFinite("loss", step));
    }
    double norm = optimizer.step(learningRate);
    model.weightsChanged();
    if (!Double.isFinite(norm)) {
      throw new DivergedException(notFinite("gradient norm", step));
    }
    return new StepResult(loss, norm, learningRate, tokens, labelTokens);
  }

  /** Mean cross entropy over all label tokens of the micro-batches, without dropout. */
  public double evaluate(Iterable<MicroBatch> microBatches) {
    double sum = 0;
    long labelTokens = 0;
    Pass evaluation = Pass.inference(pass.pack(), pass.arena(), pass.compute(), pass.loraCompute());
    for (MicroBatch microBatch : microBatches) {
      var mark = pass.arena().mark();
      SequenceBatch batch =
          SequenceBatch.of(
              pass.arena(), microBatch.ids(), microBatch.positions(), microBatch.cuSeqlens());
      sum += model.loss(evaluation, batch, microBatch.labels(), options.lossChunkRows());
      labelTokens += microBatch.labelTokens();
      pass.arena().release(mark);
    }
    return sum / labelTokens;
  }

  private double gradients(Pass at, MicroBatch microBatch, float scale) {
    var mark = at.arena().mark();
    SequenceBatch batch =
        SequenceBatch.of(
            at.arena(), microBatch.ids(), microBatch.positions(), microBatch.cuSeqlens());
    double sum = model.trainingStep(at, batch, microBatch.labels(), scale, options);
    at.arena().release(mark);
    return sum;
  }

  private static String notFinite(String what, int step) {
    return "the "
        + what
        + " of step "
        + (step + 1)
        + " is not finite; lower learning_rate, or use compute: float32 to see whether rounding is the cause";
  }
}
