// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

/**
 * Something the user can fix: a path, a setting, a file's content. The message is one line that
 * says what was expected, what was found, where, and where useful what to do next. The command line
 * prints that line and exits with code 2.
 */
public class InputException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  public InputException(String message) {
    super(Text.oneLine(message));
  }

  public InputException(String message, Throwable cause) {
    super(Text.oneLine(message), cause);
  }
}
