// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import me.tongfei.progressbar.DelegatingProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.Progress;

/**
 * A live line on a terminal; elsewhere plain lines, at the start, every ten seconds, and at the
 * end.
 */
final class ConsoleProgress implements Progress, AutoCloseable {
  private static final long QUIET_NANOS = 10_000_000_000L;
  private static final int REFRESH_MILLIS = 250;

  private final PrintWriter err;
  private final boolean terminal;
  private @Nullable ProgressBar bar;
  private String task = "";
  private long total;
  private long done;
  private String detail = "";
  private long lastLine;
  private boolean lineIsCurrent;

  ConsoleProgress(PrintWriter err) {
    this(err, standardErrorIsTerminal());
  }

  ConsoleProgress(PrintWriter err, boolean terminal) {
    this.err = err;
    this.terminal = terminal;
  }

  /** Linux tells by the name behind the descriptor; elsewhere plain lines are always right. */
  private static boolean standardErrorIsTerminal() {
    if ("dumb".equals(System.getenv("TERM"))) {
      return false;
    }
    try {
      String target = Files.readSymbolicLink(Path.of("/proc/self/fd/2")).toString();
      return target.startsWith("/dev/pts/") || target.startsWith("/dev/tty");
    } catch (IOException e) {
      return false;
    }
  }

  @Override
  public void start(String newTask, long newTotal) {
    finish();
    task = newTask;
    total = newTotal;
    done = 0;
    detail = "";
    lastLine = System.nanoTime();
    if (terminal) {
      bar =
          new ProgressBarBuilder()
              .setTaskName(newTask)
              .setInitialMax(newTotal > 0 ? newTotal : -1)
              .setUpdateIntervalMillis(REFRESH_MILLIS)
              .setStyle(ProgressBarStyle.ASCII)
              .setConsumer(new DelegatingProgressBarConsumer(this::drawLine, width()))
              .hideEta()
              .build();
    }
  }

  private static int width() {
    try {
      return Math.max(40, Integer.parseInt(String.valueOf(System.getenv("COLUMNS"))) - 1);
    } catch (NumberFormatException e) {
      return 119;
    }
  }

  private synchronized void drawLine(String line) {
    err.print("\r\u001b[K" + line);
    err.flush();
  }

  @Override
  public synchronized void update(long newDone, String newDetail) {
    done = newDone;
    detail = newDetail;
    ProgressBar current = bar;
    if (current != null) {
      current.stepTo(newDone);
      current.setExtraMessage(newDetail);
      return;
    }
    lineIsCurrent = false;
    if (System.nanoTime() - lastLine >= QUIET_NANOS) {
      plainLine();
    }
  }

  private void plainLine() {
    err.println(
        task
            + " "
            + done
            + (total > 0 ? "/" + total : "")
            + (detail.isEmpty() ? "" : ": " + detail));
    err.flush();
    lastLine = System.nanoTime();
    lineIsCurrent = true;
  }

  @Override
  public synchronized void message(String line) {
    // On a terminal the live line is wiped, the message takes its place, and the next refresh draws
    // the live line below.
    err.println((bar == null ? "" : "\r\u001b[K") + line);
    err.flush();
  }

  @Override
  public void finish() {
    ProgressBar current = bar;
    if (current != null) {
      current.close();
      synchronized (this) {
        bar = null;
        // A task that did not count to its end leaves no half-filled bar behind.
        err.print(done >= total ? System.lineSeparator() : "\r\u001b[K");
        err.flush();
      }
    } else if (!task.isEmpty() && done > 0 && !lineIsCurrent) {
      plainLine();
    }
    task = "";
  }

  @Override
  public void close() {
    finish();
  }
}
