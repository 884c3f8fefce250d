// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

final class TextCleanerTest {
  private final TextCleaner cleaner = new TextCleaner(RefineConfig.Cleaning.defaults());

  private String clean(String text) {
    return String.join(" ", cleaner.clean(text).sentences());
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        // HTML, entities, blocks end sentences, scripts and captions go
        "<p>맛있어요</p><p>또 가요</p> | 맛있어요 또 가요 | MARKUP",
        "가게&nbsp;이름 &amp; 위치 | 가게 이름 & 위치 | MARKUP",
        "<script>var a = 1;</script>좋은<br>곳<img src=\"a.jpg\"> | 좋은 곳 | MARKUP",
        "<div class='x'>굵은 <b>글씨</b>예요</div> | 굵은 글씨예요 | MARKUP",
        "![사진](http://a.example/b.jpg) **정말** [여기](http://a.example) 좋아 | 정말 여기 좋아 | MARKUP",
        // links
        "자세히 https://blog.example.com/a?b=1&c=2 참고 | 자세히 참고 | URL",
        "주소는 www.example.co.kr/가게 예요 | 주소는 가게 예요 | URL",
        "여기 naver.me/AbC123 보세요 | 여기 보세요 | URL",
        // emoji floods and hashtags
        "최고 😍😍😍 였어 | 최고 였어 | EMOJI",
        "별 ★★★★☆ 다섯 | 별 다섯 | EMOJI",
        "기록 #일상 #맛집 #소통 | 기록 | HASHTAGS",
        // runs
        "좋아ㅋㅋㅋㅋㅋ | 좋아ㅋㅋ | REPEATED_CHARACTERS",
        "와!!!!!! | 와! | REPEATED_CHARACTERS",
        "음........ | 음... | REPEATED_CHARACTERS",
        "좋아요~~~~ | 좋아요~ | REPEATED_CHARACTERS",
        // sentences
        "맛있어요. 예약은 010-1234-5678로 하세요. 또 가요. | 맛있어요. 또 가요. | PERSONAL_DATA",
        "맛있어요. 업체에서 제공받아 작성한 글입니다. 또 가요. | 맛있어요. 또 가요. | DISCLOSURE",
        "맛있어요! 맛있어요. 또 가요. | 맛있어요! 또 가요. | REPEATED_SENTENCE",
      })
  void takesOut(String text, String expected, CleaningStep step) {
    assertEquals(expected, clean(text));
    assertTrue(cleaner.clean(text).steps().containsKey(step), step.key());
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "가격 < 만 원 > 기대 이하",
        "3 < 5 그리고 7 > 2",
        "Tom & Jerry 카페",
        "하트 하나 ❤ 남겨요",
        "점수는 4.5점, 값은 10,000원이에요.",
        "100000원짜리 케이크",
        "아침 11:30에 갔어요",
        "가게 #1 맛집",
        "음... 좋아요",
        "정말?! 그래요!!",
        "모델명 a.b-2 제품",
        "ㅋㅋ 재미있어요 ㅠㅠ",
        "2*3*4 크기 상자",
      })
  void leavesAlone(String text) {
    TextCleaner.Cleaned cleaned = cleaner.clean(text);
    assertEquals(text, String.join(" ", cleaned.sentences()));
    assertEquals(Map.of(), cleaned.steps());
    assertFalse(cleaned.disclosed());
  }

  @Test
  void normalizesSpacesAndComposition() {
    String decomposed = "\u1112\u1161\u11ab\u1100\u1173\u11af";
    assertEquals("한글 한 칸", clean(decomposed + "\u200b \u00a0\u3000 한 \t 칸"));
  }

  @Test
  void masksWhereAsked() {
    TextCleaner masking =
        new TextCleaner(
            new RefineConfig.Cleaning(
                RefineConfig.Html.NEVER,
                RefineConfig.Emoji.ALL,
                RefineConfig.DisclosureRule.KEEP,
                List.of(),
                RefineConfig.PersonalDataRule.MASK,
                "○○○"));
    assertEquals(
        List.of("<p>협찬을 받아 썼어요.", "전화 ○○○ 주세요.</p>"),
        masking.clean("<p>협찬을 받아 썼어요. 전화 010-1234-5678 주세요.</p> ❤").sentences());
  }

  @Test
  void cleansTitles() {
    assertEquals(
        "조용한 책방 후기",
        cleaner.cleanLine("[협찬] <b>조용한 책방</b> 🎉 후기 https://a.example/1\n010-1234-5678"));
    assertEquals("[서울] 책방", cleaner.cleanLine("[서울] 책방"));
  }

  /** Posts come from strangers: no length or shape may take long or end the stack. */
  @Test
  void hostileTextsTakeLinearTime() {
    for (String unit :
        List.of(
            "😍", "😍 ", "#a", "#가 ", "제공받아", "ㅋ", "<p>", "<b", "&amp;", "a@", "a.", "010-", "[",
            "**a", "받아 작성 ", "!", "1-", "((((")) {
      assertTimeoutPreemptively(
          Duration.ofSeconds(10), () -> cleaner.clean(unit.repeat(200_000 / unit.length())), unit);
    }
  }
}
