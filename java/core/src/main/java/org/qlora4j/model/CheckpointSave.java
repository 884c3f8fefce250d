// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;

/**
 * What activation checkpointing can keep of every block besides its input, so that the block's
 * second forward does not compute it again (selective activation checkpointing). The bits of loss
 * and gradients do not depend on it.
 *
 * <p>Per token and block, with e bytes an element of the compute type (docs/memory.md):
 */
public enum CheckpointSave {
  /** Queries, keys and values, rotated: (heads + 2 kvHeads) headDim e. */
  QKV,
  /** Attention's output and log-sum-exp: heads (headDim e + 4). */
  ATTENTION,
  /**
   * Hidden states between attention and feed-forward: hidden e. Nothing in a block whose residual
   * is parallel, whose backward does not need them.
   */
  RESIDUAL,
  /** Outputs of the gate, where there is one, and of the up projection: ffn e each. */
  MLP;

  /** Its name in a configuration: {@code attention}. */
  public String key() {
    return name().toLowerCase(Locale.ROOT);
  }

  /**
   * The values of these names.
   *
   * @param where the names are from, for the error
   * @throws InputException for an unknown name
   */
  public static Set<CheckpointSave> parse(String where, List<String> names) {
    Set<CheckpointSave> save = EnumSet.noneOf(CheckpointSave.class);
    for (String name : names) {
      save.add(
          Arrays.stream(values())
              .filter(value -> value.key().equals(name.toLowerCase(Locale.ROOT)))
              .findAny()
              .orElseThrow(
                  () ->
                      new InputException(
                          where
                              + ": expected a list of attention, mlp, qkv, residual, found "
                              + Text.quote(name))));
    }
    return save;
  }
}
