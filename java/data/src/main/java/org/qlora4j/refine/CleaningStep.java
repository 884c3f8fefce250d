// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.Locale;

/** What cleaning took out of a post; each is counted. */
public enum CleaningStep {
  MARKUP("HTML tags and entities, Markdown"),
  URL("links"),
  DISCLOSURE("sentences that say the post was paid for"),
  PERSONAL_DATA("phone numbers, e-mail addresses, messenger and resident registration numbers"),
  EMOJI("runs of emoji"),
  HASHTAGS("runs of hashtags"),
  REPEATED_CHARACTERS("runs of one character"),
  REPEATED_SENTENCE("a sentence that was there before"),
  SHORTENED("sentences beyond max_words");

  private final String what;

  CleaningStep(String what) {
    this.what = what;
  }

  /** The step as reports write it. */
  public String key() {
    return name().toLowerCase(Locale.ROOT);
  }

  /** What is taken out, in a few words. */
  public String what() {
    return what;
  }
}
