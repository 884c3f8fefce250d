// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.file.Path;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * Refuses a tokenizer.json on which the tokenizers library would end the process. The library
 * parses the file in native code; in some of its parts a syntax error is not an error it returns
 * but a panic, which no caller can catch. So the file is first read as the library's JSON parser
 * would read it: strict JSON, nested less deep than that parser allows, numbers that a double
 * holds, text of whole characters.
 */
final class TokenizerJson {
  /** The largest published files, with vocabularies of a quarter of a million, have 35 MB. */
  private static final long MAX_BYTES = 512L << 20;

  /** The library's parser gives up at 128, counted from a place we do not know. */
  private static final int MAX_DEPTH = 100;

  private static final JsonFactory FACTORY = new JsonFactory();

  private TokenizerJson() {}

  /**
   * @throws InputException naming the file and the place
   */
  static void check(Path file) {
    String text = Json.readText(file, MAX_BYTES);
    try (JsonParser parser = FACTORY.createParser(text)) {
      int depth = 0;
      for (JsonToken token = parser.nextToken(); token != null; token = parser.nextToken()) {
        if (token.isStructStart() && ++depth > MAX_DEPTH) {
          throw wrong(file, parser, "nested deeper than " + MAX_DEPTH);
        }
        if (token.isStructEnd()) {
          depth--;
        }
        if (token.isNumeric() && !Double.isFinite(parser.getDoubleValue())) {
          throw wrong(file, parser, "a number too large for a double");
        }
        if ((token == JsonToken.FIELD_NAME || token == JsonToken.VALUE_STRING)
            && !isWhole(parser.getText())) {
          throw wrong(file, parser, "half a surrogate pair");
        }
      }
    } catch (JsonProcessingException e) {
      throw new InputException(
          file + ": not valid JSON: " + Text.oneLine(e.getOriginalMessage()), e);
    } catch (IOException e) {
      throw new InputException("cannot read " + file + ": " + e, e);
    }
  }

  private static boolean isWhole(String text) {
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      if (Character.isHighSurrogate(c)
          && i + 1 < text.length()
          && Character.isLowSurrogate(text.charAt(i + 1))) {
        i++;
      } else if (Character.isSurrogate(c)) {
        return false;
      }
    }
    return true;
  }

  private static InputException wrong(Path file, JsonParser parser, String what) {
    return new InputException(
        file
            + ": not a tokenizer: "
            + what
            + " at line "
            + parser.currentLocation().getLineNr()
            + ", column "
            + parser.currentLocation().getColumnNr());
  }
}
