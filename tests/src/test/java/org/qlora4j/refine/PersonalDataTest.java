// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

final class PersonalDataTest {
  @ParameterizedTest
  @ValueSource(
      strings = {
        "010-1234-5678",
        "01012345678",
        "010.1234.5678",
        "010 1234 5678",
        "(010)1234-5678",
        "011-234-5678",
        "+82-10-1234-5678",
        "+82 10 1234 5678",
        "+821012345678",
        "02-345-6789",
        "02) 3456-7890",
        "031-123-4567",
        "070-1234-5678",
        "0507-1234-5678",
        "1588-0000",
        "user.name+tag@mail.example.co.kr",
        "user @ example.com",
        "user(at)example.com",
        "900101-1234567",
        "카톡 아이디: sunny_day7",
        "오픈채팅 : abc123",
      })
  void findsThem(String data) {
    assertTrue(PersonalData.isIn(data), data);
    assertTrue(PersonalData.isIn("연락은 " + data + "로 주세요."), data);
    assertEquals("연락은 ***로 주세요.", PersonalData.replace("연락은 " + data + "로 주세요.", "***"));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "12,000원",
        "2024-11-27",
        "2024.11.27",
        "11-27",
        "오전 10:30-11:30",
        "2019-2024년",
        "1000-2000원",
        "3.141592",
        "제품 번호 A010-12",
        "01호점 2345명",
        "100-200-300",
        "회원 1234567890123명",
        "2-3-4",
        "1588년의 성",
        "카톡으로 보내 줬어요",
        "@친구 고마워요",
        "라인이 예뻐요",
        "10-12인분 010",
      })
  void leavesOtherNumbers(String text) {
    assertFalse(PersonalData.isIn(text), text);
  }

  @Test
  void replacesAllOfThem() {
    assertEquals(
        "문의 * 또는 *, *.",
        PersonalData.replace("문의 010-1234-5678 또는 a@example.com, 02-123-4567.", "*"));
  }
}
