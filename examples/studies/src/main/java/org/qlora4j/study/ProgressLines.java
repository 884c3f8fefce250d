// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintStream;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;

/** Progress as lines of text, from a process to the one that started it. */
final class ProgressLines implements Progress {
  private static final String MARK = "@progress ";

  private final PrintStream out;

  ProgressLines(PrintStream out) {
    this.out = out;
  }

  /** Shows what a line says; false where it is not one of this class. */
  static boolean show(String line, Progress progress) {
    if (!line.startsWith(MARK)) {
      return false;
    }
    ObjectNode event;
    try {
      event = Json.object(line.substring(MARK.length()), "progress");
    } catch (InputException e) {
      return false; // another thread of the child printed between
    }
    if (event.has("start")) {
      progress.start(event.path("start").asText(), event.path("total").asLong());
    } else if (event.has("done")) {
      progress.update(event.path("done").asLong(), event.path("detail").asText());
    } else if (event.has("message")) {
      progress.message(event.path("message").asText());
    } else {
      progress.finish();
    }
    return true;
  }

  private void print(ObjectNode event) {
    out.println(MARK + Json.compact(event));
  }

  @Override
  public void start(String task, long total) {
    print(Json.newObject().put("start", task).put("total", total));
  }

  @Override
  public void update(long done, String detail) {
    print(Json.newObject().put("done", done).put("detail", detail));
  }

  @Override
  public void message(String line) {
    print(Json.newObject().put("message", line));
  }

  @Override
  public void finish() {
    print(Json.newObject().put("finish", true));
  }
}
