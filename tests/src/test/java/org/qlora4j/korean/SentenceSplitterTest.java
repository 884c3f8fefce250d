// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.korean;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;

import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

final class SentenceSplitterTest {
  private final SentenceSplitter splitter = new SentenceSplitter();

  /** Sentences are written with | between them; the text is the same without. */
  @ParameterizedTest
  @ValueSource(
      strings = {
        "정말 맛있었어요.| 또 갈게요!| 추천해요?",
        "가격은 3.5만 원이에요.| 평점 4.8점을 받을 만해요.",
        "1. 위치가 좋아요.| 2. 값이 싸요.",
        "정말 좋아요! ㅋㅋㅋ| 다음에 또 갈게요 ㅠㅠ| 안녕히 계세요.",
        "\"다시 올게요.\"| 하고 나왔어요.",
        "Dr. Kim 선생님이 친절했어요.| J. Lee 선생님도요.",
        "음식이 맛있어요| 다음에 또 갈게요| 친구도 만족했습니다",
        "맛있어요라고 말했어요.",
        "정말 좋아요 라고 적혀 있었어요.",
        "좋아요 버튼을 눌렀어요.",
        "필요 없는 물건은 중요 표시를 했어요.",
        "글쎄요 잘 모르겠네요.",
        "정말 좋아요.|그리고 싸요.",
        "음... 생각보다 좋았어요...| 진짜로요.",
        "와!!! | 대박!?| 최고예요~~",
        "값이 오르다 말다 해요.",
      })
  void splitsWhereASentenceEnds(String marked) {
    List<String> expected = Arrays.stream(marked.split("\\|", -1)).map(String::strip).toList();
    assertEquals(expected, splitter.split(marked.replace("|", "")));
  }

  @Test
  void lineEndsEndSentences() {
    assertEquals(List.of("첫 줄", "둘째 줄", "셋째"), splitter.split(" 첫 줄\n\n둘째 줄\r\n  셋째  "));
    assertEquals(List.of(), splitter.split(" \n\t\n "));
  }

  @Test
  void losesNothingButSpaces() {
    String text = "값은 3.5만 원! 좋아요 ㅋㅋ 또 갈게요~ \"네.\" 했어요. A. B. 끝 다";
    assertEquals(text.replace(" ", ""), String.join("", splitter.split(text)).replace(" ", ""));
  }

  @Test
  void longTextsTakeLinearTime() {
    assertTimeoutPreemptively(
        Duration.ofSeconds(10), () -> splitter.split("좋아요 그리고 ".repeat(30_000)));
    assertTimeoutPreemptively(Duration.ofSeconds(10), () -> splitter.split("요".repeat(500_000)));
    assertTimeoutPreemptively(
        Duration.ofSeconds(10), () -> splitter.split(".".repeat(500_000) + "a"));
    assertTimeoutPreemptively(Duration.ofSeconds(10), () -> splitter.split("a.".repeat(250_000)));
  }
}
