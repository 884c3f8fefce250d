// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.rows;

/** Why a row cannot be used. */
public final class BadRow extends Exception {
  private static final long serialVersionUID = 1L;

  /** Kinds of bad rows. */
  public enum Kind {
    /** Not JSON, not an object, not CSV, or another number of columns than the header. */
    MALFORMED,
    /** Bytes that are not UTF-8. */
    NOT_UTF8,
    /** Longer than a row may be. */
    TOO_LONG,
    /** A field that is needed is not there, or is not text. */
    MISSING_FIELD
  }

  private final Kind kind;

  /** With what is wrong, in a few words. */
  public BadRow(Kind kind, String message) {
    // A bad row is an expected thing, and a file may have a million of them.
    super(message, null, false, false);
    this.kind = kind;
  }

  /** What is wrong. */
  public Kind kind() {
    return kind;
  }
}
