// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.Locale;

/**
 * Why a row does not become an example. A row has one reason: the first that applies, in this
 * order.
 */
public enum DropReason {
  ROW_TOO_LONG("the row is longer than max_row_bytes"),
  INVALID_UTF8("the row is not UTF-8"),
  MALFORMED("the row is not JSON, not CSV, or has another number of columns than the header"),
  MISSING_FIELD("the row has no text field, or one that is not text"),
  SPONSORED("the post says that it was paid for (disclosures: drop_post)"),
  EMPTY("nothing is left after cleaning"),
  TOO_SHORT("fewer words than min_words"),
  TOO_LONG("more words than max_words (too_long: drop)"),
  WRONG_LANGUAGE("a smaller share of Hangul among its letters than min_hangul"),
  REPETITIVE("a smaller share of distinct words than min_distinct_words"),
  NOT_POSITIVE("a lower probability of being positive than min_positive"),
  NO_PROMPT("the template needs a title or keywords, and there are none"),
  DUPLICATE("the same letters and digits as an earlier example"),
  NEAR_DUPLICATE("at least near_duplicate of its shingles in common with an earlier example"),
  SHARED_WITH_HELD_OUT("a run of held_out_shared_words words in common with a held-out example");

  private final String rule;

  DropReason(String rule) {
    this.rule = rule;
  }

  /** The reason as configurations and reports write it. */
  public String key() {
    return name().toLowerCase(Locale.ROOT);
  }

  /** When it applies, in a few words. */
  public String rule() {
    return rule;
  }

  /** Whether the row itself cannot be read, rather than its text being unwanted. */
  public boolean isBadRow() {
    return switch (this) {
      case ROW_TOO_LONG, INVALID_UTF8, MALFORMED, MISSING_FIELD -> true;
      default -> false;
    };
  }
}
