// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import org.qlora4j.common.InputException;

/** Tokenized examples in a fixed order. */
public final class Dataset {
  private final List<TokenizedExample> examples;

  /** A dataset of these examples; it may be empty. */
  public Dataset(List<TokenizedExample> examples) {
    this.examples = List.copyOf(examples);
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

  /**
   * Tokens of the {@code count} longest examples together: the most that a micro-batch can have.
   */
  public long longest(int count) {
    int[] lengths = examples.stream().mapToInt(e -> e.ids().length).sorted().toArray();
    long sum = 0;
    for (int i = Math.max(0, lengths.length - count); i < lengths.length; i++) {
      sum += lengths[i];
    }
    return sum;
  }

  /**
   * SHA-256 (hexadecimal) of all ids and labels: two datasets are the same to training iff it is
   * equal.
   */
  public String fingerprint() {
    MessageDigest digest;
    try {
      digest = MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java runtime has SHA-256", e);
    }
    for (TokenizedExample example : examples) {
      ByteBuffer bytes = ByteBuffer.allocate(4 + 8 * example.ids().length);
      bytes.putInt(example.ids().length);
      for (int i = 0; i < example.ids().length; i++) {
        bytes.putInt(example.ids()[i]).putInt(example.labels()[i]);
      }
      digest.update(bytes.flip());
    }
    return HexFormat.of().formatHex(digest.digest());
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
    int[] order = random ? order(size(), seed, -1) : identity(size());
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
   * All examples in order, `microBatchSize` at a time, the last batch perhaps smaller. For
   * evaluation.
   */
  public Iterable<MicroBatch> inOrder(int microBatchSize) {
    List<MicroBatch> batches = new ArrayList<>();
    for (int start = 0; start < size(); start += microBatchSize) {
      batches.add(batch(examples.subList(start, Math.min(size(), start + microBatchSize))));
    }
    return batches;
  }

  /** The order in which training visits this dataset. */
  public Plan plan(int microBatchSize, int gradientAccumulationSteps, boolean shuffle, long seed) {
    if (size() == 0) {
      throw new InputException("no examples to train on");
    }
    return new Plan(this, microBatchSize, gradientAccumulationSteps, shuffle, seed);
  }

  /**
   * Which examples each optimizer step sees. A step's micro-batches depend only on the seed and the
   * step's number, so that a resumed run goes on where it was by asking for the next step. Every
   * epoch visits every example once; its last micro-batch and its last step may be smaller.
   */
  public static final class Plan {
    private final Dataset dataset;
    private final int microBatchSize;
    private final int accumulation;
    private final boolean shuffle;
    private final long seed;
    private int orderEpoch = -1;
    private int[] order = {};

    private Plan(
        Dataset dataset, int microBatchSize, int accumulation, boolean shuffle, long seed) {
      this.dataset = dataset;
      this.microBatchSize = microBatchSize;
      this.accumulation = accumulation;
      this.shuffle = shuffle;
      this.seed = seed;
    }

    /** Optimizer steps of one epoch. */
    public int stepsPerEpoch() {
      long perStep = (long) microBatchSize * accumulation;
      return (int) ((dataset.size() + perStep - 1) / perStep);
    }

    /** The micro-batches of optimizer step `step`, from 0. */
    public List<MicroBatch> step(int step) {
      int epoch = step / stepsPerEpoch();
      if (epoch != orderEpoch) {
        order = shuffle ? order(dataset.size(), seed, epoch) : identity(dataset.size());
        orderEpoch = epoch;
      }
      long first = (long) (step % stepsPerEpoch()) * microBatchSize * accumulation;
      List<MicroBatch> batches = new ArrayList<>();
      for (int i = 0; i < accumulation; i++) {
        long start = first + (long) i * microBatchSize;
        long end = Math.min(dataset.size(), start + microBatchSize);
        List<TokenizedExample> chosen = new ArrayList<>();
        for (long at = start; at < end; at++) {
          chosen.add(dataset.get(order[(int) at]));
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

  private static int[] identity(int size) {
    int[] order = new int[size];
    for (int i = 0; i < size; i++) {
      order[i] = i;
    }
    return order;
  }

  /**
   * A permutation that depends on the size, the seed and the epoch only (Fisher-Yates with
   * java.util.Random, whose numbers its specification fixes). The epoch -1 is the split.
   */
  private static int[] order(int size, long seed, int epoch) {
    Random random = new Random(seed * 0x9E3779B97F4A7C15L + epoch);
    int[] order = identity(size);
    for (int i = size - 1; i > 0; i--) {
      int j = random.nextInt(i + 1);
      int other = order[j];
      order[j] = order[i];
      order[i] = other;
    }
    return order;
  }

  @Override
  public String toString() {
    return String.format(
        "%d examples, %d tokens, %d of them learned", size(), tokens(), labelTokens());
  }
}
