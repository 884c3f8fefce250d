// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

final class DisclosuresTest {
  private final Disclosures disclosures = new Disclosures(List.of());

  @ParameterizedTest
  @ValueSource(
      strings = {
        "본 포스팅은 업체로부터 제품을 제공받아 작성하였습니다.",
        "이 글은 소정의 원고료를 받고 작성된 글입니다.",
        "해당 매장에서 식사권을 제공받아 솔직하게 작성한 후기입니다.",
        "체험단으로 선정되어 방문했습니다.",
        "체험단에 당첨되어 다녀왔어요.",
        "브랜드에서 협찬받은 제품이에요.",
        "협찬을 받아 솔직하게 적었어요.",
        "이 포스팅은 파트너스 활동의 일환으로, 일정액의 수수료를 제공받습니다.",
        "유료 광고를 포함하고 있습니다.",
        "[협찬] 새 제품을 소개해요.",
        "#협찬",
        "#광고 #제품제공",
        "제품을 무상으로 제공받았습니다.",
        "업체 측으로부터 숙박권을 지원받았어요.",
        "서포터즈 3기 활동으로 제공받은 제품이에요.",
        "저는 이 글을 쓰면서 소정의 수수료를 받을 수 있습니다.",
      })
  void findsDisclosures(String sentence) {
    assertTrue(disclosures.discloses(sentence), sentence);
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "아침마다 따뜻한 조식이 제공되어 좋았어요.",
        "직원분이 담요를 하나 더 제공해 주셨어요.",
        "담요를 제공받아 따뜻하게 잤어요.",
        "좋은 서비스를 제공하는 곳이에요.",
        "협찬 아니고 제 돈 주고 샀어요.",
        "광고 아니에요, 진짜 맛있어요.",
        "내돈내산 솔직 후기예요.",
        "원고료 없이 제가 좋아서 쓰는 글이에요.",
        "광고를 보고 찾아갔는데 기대보다 좋았어요.",
        "체험 프로그램이 다양해서 아이가 좋아했어요.",
        "회사에서 휴가를 받아 다녀온 여행이에요.",
        "선물을 받아 기분이 좋았어요.",
        "연예인이 협찬 옷을 입고 나와서 유명해진 가게예요.",
        "무료로 제공되는 음료가 맛있어요.",
        "할인 쿠폰을 받아서 싸게 샀어요.",
        "남편이 회사에서 지원받아 자격증을 땄어요.",
      })
  void leavesInnocentSentences(String sentence) {
    assertFalse(disclosures.discloses(sentence), sentence);
  }

  @Test
  void takesFurtherPatterns() {
    assertFalse(disclosures.discloses("홍보대사 자격으로 다녀왔어요."));
    assertTrue(new Disclosures(List.of(Pattern.compile("홍보대사"))).discloses("홍보대사 자격으로 다녀왔어요."));
  }

  @Test
  void findsThemInLongLines() {
    String filler = "가나다라 ".repeat(200);
    assertTrue(disclosures.discloses(filler + "소정의 원고료를 받았어요 " + filler));
    assertEquals(false, disclosures.discloses(filler));
  }
}
