// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.generation;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import org.qlora4j.common.Json;

/**
 * What a model wrote.
 *
 * @param text without the prompt
 * @param tokens it has
 * @param stopped whether the model ended it, and not the longest length
 * @param seconds it took
 */
record GeneratedText(String text, int tokens, boolean stopped, double seconds) {
  ObjectNode toJson() {
    return Json.newObject()
        .put("text", text)
        .put("tokens", tokens)
        .put("stopped", stopped)
        .put("seconds", seconds);
  }

  static GeneratedText of(JsonNode json) {
    return new GeneratedText(
        json.path("text").asText(),
        json.path("tokens").asInt(),
        json.path("stopped").asBoolean(),
        json.path("seconds").asDouble());
  }
}
