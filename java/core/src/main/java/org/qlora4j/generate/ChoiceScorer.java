// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.generate;

import java.util.Arrays;
import java.util.List;
import org.qlora4j.common.InputException;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;

/**
 * Uses a language model as a classifier: how probable each of a few continuations of a prompt is,
 * among them. A model that was tuned on prompts with the right continuation behind them judges
 * other prompts this way.
 *
 * <pre>{@code
 * double[] p =
 *     scorer.probabilities(tokenizer, "리뷰: " + text + " / 감정:", List.of(" 긍정", " 부정"));
 * }</pre>
 */
public final class ChoiceScorer {
  private final DecoderModel model;
  private final Pass pass;

  /**
   * @param pass an inference pass; its arena is used and left as it was
   */
  public ChoiceScorer(DecoderModel model, Pass pass) {
    this.model = model;
    this.pass = pass;
  }

  /**
   * The same for texts. Prompt and choice are encoded as one text, which is what training does
   * wherever no token spans the border of the two; a prompt's last tokens that depend on what
   * follows count as part of the choices.
   */
  public double[] probabilities(Tokenizer tokenizer, String prompt, List<String> choices) {
    int[] alone = tokenizer.encode(prompt);
    List<int[]> whole = choices.stream().map(choice -> tokenizer.encode(prompt + choice)).toList();
    int shared = alone.length;
    for (int[] ids : whole) {
      int same = Arrays.mismatch(alone, ids);
      shared = Math.min(shared, same < 0 ? alone.length : same);
    }
    int end = shared;
    return probabilities(
        Arrays.copyOf(alone, end),
        whole.stream().map(ids -> Arrays.copyOfRange(ids, end, ids.length)).toList());
  }

  /**
   * The choices' probabilities, which sum to 1: each the product of its tokens' probabilities,
   * divided by the sum over all choices.
   *
   * @param prompt at least one token
   * @param choices at least one; each at least one token
   * @throws InputException when prompt and choice are longer than the model's context
   */
  public double[] probabilities(int[] prompt, List<int[]> choices) {
    if (prompt.length == 0 || choices.isEmpty()) {
      throw new InputException("nothing to score: expected a prompt and choices with tokens");
    }
    double[] logs = new double[choices.size()];
    for (int i = 0; i < logs.length; i++) {
      logs[i] = logProbability(prompt, choices.get(i));
    }
    double largest = Arrays.stream(logs).max().orElseThrow();
    double sum = 0;
    for (double log : logs) {
      sum += Math.exp(log - largest);
    }
    double[] probabilities = new double[logs.length];
    for (int i = 0; i < logs.length; i++) {
      probabilities[i] = Math.exp(logs[i] - largest) / sum;
    }
    return probabilities;
  }

  private double logProbability(int[] prompt, int[] choice) {
    if (choice.length == 0) {
      throw new InputException("nothing to score: a choice has no tokens");
    }
    int most = model.config().maxPositions();
    if (prompt.length + choice.length > most) {
      throw new InputException(
          "prompt and choice have "
              + (prompt.length + choice.length)
              + " tokens, the model's context is "
              + most
              + "; shorten the prompt");
    }
    // The last token of a choice predicts nothing that is asked for.
    int[] ids = Arrays.copyOf(prompt, prompt.length + choice.length - 1);
    System.arraycopy(choice, 0, ids, prompt.length, choice.length - 1);
    var mark = pass.arena().mark();
    SequenceBatch batch = SequenceBatch.single(pass.arena(), ids, 0);
    DeviceTensor hidden = model.forward(pass, batch, null);
    float[] logits = model.logits(pass, hidden.rows(prompt.length - 1L, choice.length)).toFloats();
    pass.arena().release(mark);
    int vocabulary = logits.length / choice.length;
    double log = 0;
    for (int i = 0; i < choice.length; i++) {
      if (choice[i] < 0 || choice[i] >= vocabulary) {
        throw new InputException("token " + choice[i] + " of a vocabulary of " + vocabulary);
      }
      log += logSoftmax(logits, i * vocabulary, vocabulary, choice[i]);
    }
    return log;
  }

  private static double logSoftmax(float[] logits, int offset, int count, int index) {
    double largest = Double.NEGATIVE_INFINITY;
    for (int i = 0; i < count; i++) {
      largest = Math.max(largest, logits[offset + i]);
    }
    double sum = 0;
    for (int i = 0; i < count; i++) {
      sum += Math.exp(logits[offset + i] - largest);
    }
    return logits[offset + index] - largest - Math.log(sum);
  }
}
