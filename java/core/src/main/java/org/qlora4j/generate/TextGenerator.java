// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.generate;

import java.util.Arrays;
import java.util.Set;
import java.util.function.IntConsumer;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.KvCache;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;

/**
 * Generates tokens with a model: the prompt in one pass, then one token a pass against the
 * key/value cache.
 */
public final class TextGenerator {

  private final DecoderModel model;
  private final Pass pass;
  private final Set<Integer> stopTokens;

  /**
   * @param pass an inference pass; its arena is used and left as it was
   * @param stopTokens tokens that end a text (end of sequence)
   */
  public TextGenerator(DecoderModel model, Pass pass, Set<Integer> stopTokens) {
    this.model = model;
    this.pass = pass;
    this.stopTokens = Set.copyOf(stopTokens);
  }

  /** New tokens after {@code prompt}, without the stop token. */
  public int[] generate(int[] prompt, SamplingConfig config) {
    return generate(prompt, config, token -> {});
  }

  /**
   * As {@link #generate(int[], SamplingConfig)}; {@code onToken} sees each token as it is chosen.
   */
  public int[] generate(int[] prompt, SamplingConfig config, IntConsumer onToken) {
    if (prompt.length == 0) {
      throw new InputException(
          "nothing to generate from: the prompt has no tokens; give a prompt, or a tokenizer with a start token");
    }
    int most = model.config().maxPositions();
    if (prompt.length >= most) {
      throw new InputException(
          "the prompt has "
              + prompt.length
              + " tokens, the model's context is "
              + most
              + "; shorten the prompt");
    }
    for (int id : prompt) {
      if (id < 0 || id >= model.config().vocabSize()) {
        throw new InputException(
            "the prompt has the token "
                + id
                + ", but config.json says vocab_size "
                + model.config().vocabSize()
                + "; the tokenizer belongs to another model");
      }
    }
    int capacity = (int) Math.min(most, (long) prompt.length + config.maxNewTokens());
    Sampler sampler = new Sampler(config);
    int[] tokens = Arrays.copyOf(prompt, capacity);
    int length = prompt.length;
    try (KvCache cache = new KvCache(pass.pack(), model.config(), pass.compute(), capacity)) {
      float[] logits = advance(cache, tokens, length);
      while (length < capacity) {
        int token = sampler.next(logits, tokens, length);
        if (stopTokens.contains(token)) {
          break;
        }
        tokens[length++] = token;
        onToken.accept(token);
        if (length < capacity) {
          logits = advance(cache, tokens, length);
        }
      }
    }
    return Arrays.copyOfRange(tokens, prompt.length, length);
  }

  /**
   * Runs those of the first {@code length} tokens that the cache does not hold, or all of them
   * where keys of the shorter text do not serve the longer; logits of the last one.
   */
  private float[] advance(KvCache cache, int[] tokens, int length) {
    if (model.config().rotatesOtherwise(cache.length(), length)) {
      cache.clear();
    }
    int[] ids = Arrays.copyOfRange(tokens, cache.length(), length);
    var mark = pass.arena().mark();
    SequenceBatch batch = SequenceBatch.single(pass.arena(), ids, cache.length());
    DeviceTensor hidden = model.forward(pass, batch, cache);
    float[] logits = model.logits(pass, hidden.rows(ids.length - 1L, 1)).toFloats();
    pass.arena().release(mark);
    return logits;
  }
}
