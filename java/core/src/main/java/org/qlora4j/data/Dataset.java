// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Sha256;

/** Tokenized examples in a fixed order, each a row of its own or several packed into one. */
public final class Dataset {
  private final List<TokenizedExample> examples;

  /** The examples of each row; null where each example is a row. */
  private final int @Nullable [][] packs;

  /** A dataset of these examples; it may be empty. */
  public Dataset(List<TokenizedExample> examples) {
    this(examples, null);
  }

  private Dataset(List<TokenizedExample> examples, int @Nullable [][] packs) {
    this.examples = List.copyOf(examples);
    this.packs = packs;
  }

  /**
   * The same examples, several of them in a row of at most {@code capacity} tokens (best-fit
   * decreasing). Batches then count rows.
   */
  public Dataset packed(int capacity) {
    int[] lengths = examples.stream().mapToInt(e -> e.ids().length).toArray();
    return new Dataset(examples, Packing.bestFitDecreasing(lengths, capacity));
  }

  /** Number of rows: packs where examples were packed, else examples. */
  public int rows() {
    return packs == null ? size() : packs.length;
  }

  /** The examples of a row. */
  private List<TokenizedExample> row(int index) {
    return packs == null
        ? List.of(examples.get(index))
        : Arrays.stream(packs[index]).mapToObj(examples::get).toList();
  }

  private int[] rowTokens() {
    int[] tokens = new int[rows()];
    for (int i = 0; i < tokens.length; i++) {
      for (TokenizedExample example : row(i)) {
        tokens[i] += example.ids().length;
      }
    }
    return tokens;
  }

  /** Number of examples. */
  public int size() {
    return examples.size();
  }

  /** One example. */
  public TokenizedExample get(int index) {
    return examples.get(index);
  }

  /** Tokens of all examples. */
  public long tokens() {
    return examples.stream().mapToLong(example -> example.ids().length).sum();
  }

  /** Tokens that count in the loss. */
  public long labelTokens() {
    return examples.stream().mapToLong(TokenizedExample::labelTokens).sum();
  }

  /** Refuses ids that a model of this vocabulary has no embedding for. */
  public void checkVocabulary(int vocabSize) {
    for (TokenizedExample example : examples) {
      for (int id : example.ids()) {
        if (id >= vocabSize) {
          throw new InputException(
              "the tokenizer gives the token "
                  + id
                  + ", but config.json says vocab_size "
                  + vocabSize
                  + "; the tokenizer belongs to another model");
        }
      }
    }
  }

  /** Tokens of the {@code count} longest rows together: the most that a micro-batch can have. */
  public long longest(int count) {
    int[] lengths = rowTokens();
    Arrays.sort(lengths);
    long sum = 0;
    for (int i = Math.max(0, lengths.length - count); i < lengths.length; i++) {
      sum += lengths[i];
    }
    return sum;
  }

  /** Tokens of the longest example; 0 where there is none. */
  public int longestExample() {
    return examples.stream().mapToInt(example -> example.ids().length).max().orElse(0);
  }

  /**
   * SHA-256 (hexadecimal) of all ids and labels: two datasets are the same to training iff it is
   * equal.
   */
  public String fingerprint() {
    MessageDigest digest = Sha256.digest();
    for (TokenizedExample example : examples) {
      ByteBuffer bytes = ByteBuffer.allocate(4 + 8 * example.ids().length);
      bytes.putInt(example.ids().length);
      for (int i = 0; i < example.ids().length; i++) {
        bytes.putInt(example.ids()[i]).putInt(example.labels()[i]);
      }
      digest.update(bytes.flip());
    }
    return Sha256.hex(digest);
  }

  /** Two parts of one dataset. */
  public record Split(Dataset train, Dataset eval) {}

  /**
   * Holds out a share (below 1, rounded, at least one) or a number (1 and up) of the examples. With
   * `random` they are drawn by the seed; otherwise they are the last ones, as befits sequences cut
   * from one text.
   */
  public Split split(double held, boolean random, long seed) {
    if (held == 0) {
      return new Split(this, new Dataset(List.of()));
    }
    int count = (int) (held < 1 ? Math.max(1, Math.round(held * size())) : held);
    if (count >= size()) {
      throw new InputException(
          "val_set_size: expected to hold out fewer than the "
              + size()
              + " examples there are, found "
              + count);
    }
    int[] order = random ? SampleOrder.permutation(size(), seed, -1) : SampleOrder.identity(size());
    boolean[] out = new boolean[size()];
    for (int i = size() - count; i < size(); i++) {
      out[order[i]] = true;
    }
    List<TokenizedExample> train = new ArrayList<>();
    List<TokenizedExample> eval = new ArrayList<>();
    for (int i = 0; i < size(); i++) {
      (out[i] ? eval : train).add(examples.get(i));
    }
    return new Split(new Dataset(train), new Dataset(eval));
  }

  /** This dataset's examples followed by the other's. */
  public Dataset plus(Dataset other) {
    List<TokenizedExample> both = new ArrayList<>(examples);
    both.addAll(other.examples);
    return new Dataset(both);
  }

  /**
   * All rows in order, `microBatchSize` at a time, the last batch perhaps smaller. For evaluation.
   */
  public Iterable<MicroBatch> inOrder(int microBatchSize) {
    List<MicroBatch> batches = new ArrayList<>();
    for (int start = 0; start < rows(); start += microBatchSize) {
      List<TokenizedExample> chosen = new ArrayList<>();
      for (int at = start; at < Math.min(rows(), start + microBatchSize); at++) {
        chosen.addAll(row(at));
      }
      batches.add(batch(chosen));
    }
    return batches;
  }

  /** The order in which training visits this dataset. */
  public Plan plan(
      int microBatchSize, int gradientAccumulationSteps, SampleOrder order, long seed) {
    if (size() == 0) {
      throw new InputException("no examples to train on");
    }
    return new Plan(this, microBatchSize, gradientAccumulationSteps, order, seed);
  }

  /**
   * Which rows each optimizer step sees. A step's micro-batches depend only on the seed and the
   * step's number, so that a resumed run goes on where it was by asking for the next step. Every
   * epoch visits every row once; its last micro-batch and its last step may be smaller.
   */
  public static final class Plan {
    private final Dataset dataset;
    private final int microBatchSize;
    private final int accumulation;
    private final SampleOrder sampleOrder;
    private final long seed;
    private int orderEpoch = -1;
    private int[] order = {};

    private Plan(
        Dataset dataset, int microBatchSize, int accumulation, SampleOrder sampleOrder, long seed) {
      this.dataset = dataset;
      this.microBatchSize = microBatchSize;
      this.accumulation = accumulation;
      this.sampleOrder = sampleOrder;
      this.seed = seed;
    }

    /** Optimizer steps of one epoch. */
    public int stepsPerEpoch() {
      long perStep = (long) microBatchSize * accumulation;
      return (int) ((dataset.rows() + perStep - 1) / perStep);
    }

    /** The micro-batches of optimizer step `step`, from 0. */
    public List<MicroBatch> step(int step) {
      int epoch = step / stepsPerEpoch();
      if (epoch != orderEpoch) {
        order =
            sampleOrder.of(dataset.rowTokens(), (long) microBatchSize * accumulation, seed, epoch);
        orderEpoch = epoch;
      }
      long first = (long) (step % stepsPerEpoch()) * microBatchSize * accumulation;
      List<MicroBatch> batches = new ArrayList<>();
      for (int i = 0; i < accumulation; i++) {
        long start = first + (long) i * microBatchSize;
        long end = Math.min(dataset.rows(), start + microBatchSize);
        List<TokenizedExample> chosen = new ArrayList<>();
        for (long at = start; at < end; at++) {
          chosen.addAll(dataset.row(order[(int) at]));
        }
        if (!chosen.isEmpty()) {
          batches.add(batch(chosen));
        }
      }
      return batches;
    }
  }

  /**
   * Puts sequences side by side; labels move one place to the left, so that each stands where it is
   * predicted.
   */
  static MicroBatch batch(List<TokenizedExample> examples) {
    int tokens = 0;
    for (TokenizedExample example : examples) {
      tokens = Math.addExact(tokens, example.ids().length);
    }
    int[] ids = new int[tokens];
    int[] labels = new int[tokens];
    int[] positions = new int[tokens];
    int[] cuSeqlens = new int[examples.size() + 1];
    int at = 0;
    for (int s = 0; s < examples.size(); s++) {
      TokenizedExample example = examples.get(s);
      int length = example.ids().length;
      System.arraycopy(example.ids(), 0, ids, at, length);
      System.arraycopy(example.labels(), 1, labels, at, length - 1);
      labels[at + length - 1] = TokenizedExample.IGNORED;
      for (int i = 0; i < length; i++) {
        positions[at + i] = i;
      }
      at += length;
      cuSeqlens[s + 1] = at;
    }
    return new MicroBatch(ids, labels, positions, cuSeqlens);
  }

  @Override
  public String toString() {
    String text =
        String.format(
            "%d examples, %d tokens, %d of them learned", size(), tokens(), labelTokens());
    return packs == null ? text : text + ", in " + rows() + " packed rows";
  }
}
