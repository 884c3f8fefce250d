// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Finds Korean phone numbers, e-mail addresses, messenger names and resident registration numbers.
 * Prices, dates, times and years are none.
 */
final class PersonalData {
  private static final String SEPARATOR = "[-.\u00b7\u2010-\u2015 ]?";
  private static final String NOT_IN_NUMBER = "(?<![0-9.,:-])";
  private static final String NUMBER_ENDS = "(?![0-9]|[.,:-][0-9])";

  private static final Pattern ANY =
      Pattern.compile(
          // user@host.tld, also written with spaces or "(at)"
          "[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}\\s?(?:@|\\(at\\)|\\[at\\]|＠)\\s?(?:[A-Za-z0-9-]{1,63}\\.){1,6}[A-Za-z]{2,10}"
              // mobile, with or without the country code
              + "|(?<![0-9.,:-])(?:\\+?82\\)?[- .]?)?\\(?0?1[016789]\\)?"
              + SEPARATOR
              + "[0-9]{3,4}"
              + SEPARATOR
              + "[0-9]{4}"
              + NUMBER_ENDS
              // fixed lines and internet phones: area code, separators required
              + "|"
              + NOT_IN_NUMBER
              + "(?:\\+?82[- .]?)?\\(?0(?:2|[3-6][1-5]|70|80|50[2-8]?)(?:\\)\\s?|[-. )])\\s?[0-9]{3,4}[-. ][0-9]{4}"
              + NUMBER_ENDS
              // nationwide numbers
              + "|"
              + NOT_IN_NUMBER
              + "1(?:5(?:22|44|66|77|88|99)|6(?:00|11|22|33|44|55|61|66|68|70|77|88|99)|8(?:00|11|33|44|55|66|77|99))-[0-9]{4}"
              + NUMBER_ENDS
              // resident registration number
              + "|"
              + NOT_IN_NUMBER
              + "[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])-[1-8][0-9]{6}"
              + NUMBER_ENDS
              // names in messengers
              + "|(?:카톡|카카오톡|카카오|라인|텔레그램|오픈\\s?채팅)\\s*(?:아이디|ID|id|계정|친구)?\\s*[:：=]\\s*@?[A-Za-z0-9][A-Za-z0-9_.-]{2,}");

  private static final String SIGNS = "@＠:：=([";

  private PersonalData() {}

  /** Whether there is any in a text. */
  static boolean isIn(String text) {
    return maybeIn(text) && ANY.matcher(text).find();
  }

  /** Whether there is a digit, an at sign or a colon, of which every match has one. */
  private static boolean maybeIn(String text) {
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      if ((c >= '0' && c <= '9') || SIGNS.indexOf(c) >= 0) {
        return true;
      }
    }
    return false;
  }

  /** The text with each replaced. */
  static String replace(String text, String by) {
    return ANY.matcher(text).replaceAll(Matcher.quoteReplacement(by));
  }
}
