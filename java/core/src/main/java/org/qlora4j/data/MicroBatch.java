// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

/**
 * Sequences that go through the model together, one after the other, without padding.
 *
 * @param ids [tokens]
 * @param labels [tokens]: the token that follows within the sequence, or -100 where the loss does
 *     not count
 * @param positions [tokens]: position within the sequence
 * @param cuSeqlens [sequences + 1]: where each sequence starts, and the end
 */
@SuppressWarnings("ArrayRecordComponent") // compared by nobody; a list would box every token
public record MicroBatch(int[] ids, int[] labels, int[] positions, int[] cuSeqlens) {

  /** Tokens that count in the loss. */
  public int labelTokens() {
    int count = 0;
    for (int label : labels) {
      count += label == -100 ? 0 : 1;
    }
    return count;
  }

  /** All tokens. */
  public int tokens() {
    return ids.length;
  }
}
