// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.nio.file.Path;
import java.util.List;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.qlora4j.rows.RowFormat;

/**
 * Everything that `data refine` can be told. {@link RefineConfigReader} has the keys and defaults.
 */
public record RefineConfig(
    Input input, Output output, Cleaning cleaning, Filters filters, Prompt prompt, int threads) {

  /**
   * Where posts come from.
   *
   * @param format null for what each file's name says
   * @param titleField null where posts have no titles
   * @param keywordsField null where posts have no keywords
   * @param groupField posts with the same value go to the same side of the held-out split
   * @param maxBadRows largest share of rows that cannot be read
   */
  public record Input(
      List<Path> files,
      @Nullable RowFormat format,
      String textField,
      @Nullable String titleField,
      @Nullable String keywordsField,
      @Nullable String groupField,
      int maxRowBytes,
      double maxBadRows) {
    public Input {
      files = List.copyOf(files);
    }
  }

  /**
   * Where examples go.
   *
   * @param heldOut null for no held-out examples
   * @param sharedWords a training example that shares a run of so many words with a held-out one is
   *     dropped; 0 for never
   * @param samples dropped rows that the report shows for each reason
   */
  public record Output(
      Path training,
      @Nullable Path heldOut,
      double heldOutFraction,
      int sharedWords,
      long seed,
      int samples) {}

  /** Which texts hold HTML. */
  public enum Html {
    AUTO,
    ALWAYS,
    NEVER
  }

  /** Which emoji go. */
  public enum Emoji {
    FLOODS,
    ALL,
    KEEP
  }

  /** What a disclosure does. */
  public enum DisclosureRule {
    REMOVE,
    DROP_POST,
    KEEP
  }

  /** What personal data does. */
  public enum PersonalDataRule {
    DROP_SENTENCE,
    MASK
  }

  /** How texts are cleaned. */
  public record Cleaning(
      Html html,
      Emoji emoji,
      DisclosureRule disclosures,
      List<Pattern> disclosurePatterns,
      PersonalDataRule personalData,
      String personalDataMask) {
    public Cleaning {
      disclosurePatterns = List.copyOf(disclosurePatterns);
    }

    /** The defaults. */
    public static Cleaning defaults() {
      return new Cleaning(
          Html.AUTO,
          Emoji.FLOODS,
          DisclosureRule.REMOVE,
          List.of(),
          PersonalDataRule.DROP_SENTENCE,
          "***");
    }
  }

  /** What a text beyond max_words does. */
  public enum TooLong {
    CUT,
    DROP
  }

  /**
   * Which texts stay.
   *
   * @param minHangul smallest share of Hangul among letters
   * @param minDistinctWords smallest share of distinct words
   * @param sentimentModel null where no text is judged
   * @param minPositive smallest probability of being positive
   * @param nearDuplicate smallest share of shingles that makes a near duplicate; above 1 for none
   */
  public record Filters(
      int minWords,
      int maxWords,
      TooLong tooLong,
      double minHangul,
      double minDistinctWords,
      @Nullable Path sentimentModel,
      double minPositive,
      double nearDuplicate) {}

  /**
   * How the prompt is built.
   *
   * @param template with {title}, {keywords} or {first_words}
   * @param keywords how many
   * @param firstWords how many
   * @param completionPrefix what a completion begins with
   */
  public record Prompt(String template, int keywords, int firstWords, String completionPrefix) {}
}
