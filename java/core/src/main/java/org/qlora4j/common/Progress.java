// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

/**
 * Where long work says how far it is. The command line shows a live line on a terminal and
 * occasional plain lines elsewhere; a program that embeds the library may show it in its own way.
 */
public interface Progress {

  /**
   * Starts a task of `total` units of work; a total of 0 means that it is not known. Ends the task
   * before, if any.
   */
  void start(String task, long total);

  /**
   * `done` of the task's units are done; `detail` is a short text such as "loss 2.31, 1200
   * tokens/s".
   */
  void update(long done, String detail);

  /** A line that stays on the screen, above the live one. */
  void message(String line);

  /** The task has ended. Does nothing when none was started. */
  void finish();

  /** Shows nothing. */
  static Progress none() {
    return new Progress() {
      @Override
      public void start(String task, long total) {}

      @Override
      public void update(long done, String detail) {}

      @Override
      public void message(String line) {}

      @Override
      public void finish() {}
    };
  }
}
