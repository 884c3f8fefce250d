// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

/**
 * One sequence to learn.
 *
 * @param ids [tokens]
 * @param labels [tokens]: the token itself where it is to be learned, -100 elsewhere; not shifted,
 *     as in Hugging Face data
 */
@SuppressWarnings("ArrayRecordComponent") // compared by nobody; a list would box every token
public record TokenizedExample(int[] ids, int[] labels) {

  /** Label of a token that does not count. */
  public static final int IGNORED = -100;

  public TokenizedExample {
    if (ids.length != labels.length) {
      throw new IllegalArgumentException(ids.length + " ids, " + labels.length + " labels");
    }
  }

  /** Tokens that count in the loss: the first token has nothing before it to be predicted from. */
  public int labelTokens() {
    int count = 0;
    for (int i = 1; i < labels.length; i++) {
      if (labels[i] != IGNORED) {
        count++;
      }
    }
    return count;
  }
}
