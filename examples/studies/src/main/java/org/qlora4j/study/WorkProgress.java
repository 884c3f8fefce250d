// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import org.qlora4j.common.Progress;

/**
 * Progress of a part of a study: says which part the work is for, and keeps the messages of the
 * work itself out.
 *
 * @param progress where it goes
 * @param prefix in front of every task's name
 */
public record WorkProgress(Progress progress, String prefix) implements Progress {
  @Override
  public void start(String task, long total) {
    progress.start(prefix + task, total);
  }

  @Override
  public void update(long done, String detail) {
    progress.update(done, detail);
  }

  @Override
  public void message(String line) {}

  @Override
  public void finish() {
    progress.finish();
  }
}
