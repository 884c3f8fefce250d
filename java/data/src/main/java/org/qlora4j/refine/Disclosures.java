// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.List;
import java.util.regex.Pattern;

/**
 * Finds sentences by which a Korean post discloses that it was paid for. A word alone does not
 * decide: "조식이 제공되어 좋았어요" and "협찬 아니고 제 돈 주고 샀어요" are no disclosures.
 */
final class Disclosures {
  private static final int WINDOW = 400;
  private static final int STRIDE = 300;

  private static final String RECEIVED = "(?:받아|받았|받은|받고|받으|받는|받게|받을|받습|받음|받기)";
  private static final String WROTE = "(?:작성|포스팅|후기|리뷰|글입|글이에요|글을|체험|사용해|써\\s?봤|솔직|주관적|올리|올려)";
  private static final String GIVER = "(?:업체|브랜드|본사|광고주|판매자|측에서|측으로|으로부터|로부터|에게서|매장에서)";

  /** Sentences with one of these disclose, whatever else they say. */
  private static final List<Pattern> PATTERNS =
      List.of(
          of("원고료"),
          of("소정의\\s*(?:수수료|고료|대가|비용|활동비|커미션|제작비)"),
          of("(?:수수료|커미션|대가)(?:를|을)?\\s*(?:제공|지급)?\\s*" + RECEIVED + ".*(?:수 있|" + WROTE + ")"),
          of("파트너스\\s*활동"),
          of("제휴\\s*(?:마케팅|활동|링크)"),
          of("유료\\s*광고"),
          of("광고(?:를|가)?\\s*포함"),
          of("(?:^|\\s|\\[|\\()#?(?:광고|협찬|제품\\s?제공|유료\\s?광고|AD)\\s*(?:\\]|\\)|$)"),
          of("협찬\\s*(?:을|를)?\\s*" + RECEIVED),
          of("협찬\\s*(?:으로|로)\\s*.*" + WROTE),
          of("협찬\\s*(?:글|후기|리뷰|포스팅|제품|상품|입니다|이에요|임)"),
          of(
              "체험단\\s*(?:으로|에|을|를|활동|자격|통해|이벤트)?\\s*.*(?:선정|당첨|참여|방문|"
                  + RECEIVED
                  + "|"
                  + WROTE
                  + ")"),
          of("서포터즈\\s*(?:로|활동|자격|[0-9]+기).*(?:선정|활동|제공|지원|" + WROTE + ")"),
          of("기자단\\s*(?:으로|활동).*(?:제공|" + WROTE + ")"),
          of("(?:제공|지원|협조|증정)(?:을|를)?\\s*" + RECEIVED + ".*" + WROTE),
          of(GIVER + ".*(?:제공|지원|협조|증정)(?:을|를)?\\s*" + RECEIVED),
          of("(?:제품|상품|식사권|이용권|숙박권|서비스|물품)(?:을|를|만)?\\s*(?:무상|무료)(?:로|으로)?\\s*(?:제공|지원|협찬)"),
          of("(?:무상|무료)(?:로|으로)\\s*(?:제공|지원)\\s*" + RECEIVED + "\\s*(?:.*" + WROTE + "|$)"));

  /** Sentences with one of these do not disclose: they deny it, or speak of others. */
  private static final Pattern DENIES =
      Pattern.compile(
          "(?:협찬|광고|체험단|제공|원고료|대가)[가-힣\\s]{0,8}(?:아니|아닌|아님|없이|없는|없음|없고|안\\s?받|받지\\s?않|받은\\s?적)|내돈\\s?내산");

  /** One of these is in every match of {@link #PATTERNS}: most sentences need no closer look. */
  private static final Pattern HINT =
      Pattern.compile(
          "협찬|원고료|소정|수수료|커미션|대가|제공|지원|협조|증정|파트너스|제휴|광고|체험단|서포터즈|기자단|무상|무료|AD",
          Pattern.CASE_INSENSITIVE);

  private final List<Pattern> further;

  /**
   * @param further the user's own patterns
   */
  Disclosures(List<Pattern> further) {
    this.further = List.copyOf(further);
  }

  private static Pattern of(String regex) {
    return Pattern.compile(regex, Pattern.CASE_INSENSITIVE);
  }

  /** Whether a sentence discloses. */
  boolean discloses(String sentence) {
    // In windows, because the patterns' time grows with the square of the length.
    for (int start = 0; start < sentence.length(); start += STRIDE) {
      String window = sentence.substring(start, Math.min(sentence.length(), start + WINDOW));
      if (finds(window)) {
        return true;
      }
    }
    return false;
  }

  private boolean finds(String sentence) {
    boolean found = anyOf(further, sentence);
    if (!found && HINT.matcher(sentence).find()) {
      found = anyOf(PATTERNS, sentence);
    }
    return found && !DENIES.matcher(sentence).find();
  }

  private static boolean anyOf(List<Pattern> patterns, String sentence) {
    for (Pattern pattern : patterns) {
      if (pattern.matcher(sentence).find()) {
        return true;
      }
    }
    return false;
  }
}
