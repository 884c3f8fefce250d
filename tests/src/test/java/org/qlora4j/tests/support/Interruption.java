// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import org.qlora4j.common.Progress;

/** Fails like a run that is ended when the update number {@code last} comes. */
public final class Interruption implements Progress {
  private final int last;
  private int updates = 0;

  /** Counts from 1. */
  public Interruption(int last) {
    this.last = last;
  }

  @Override
  public void start(String task, long total) {}

  @Override
  public void update(long done, String detail) {
    if (++updates == last) {
      throw new IllegalStateException("interrupted");
    }
  }

  @Override
  public void message(String line) {}

  @Override
  public void finish() {}
}
