// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import com.hubspot.jinjava.Jinjava;
import com.hubspot.jinjava.JinjavaConfig;
import com.hubspot.jinjava.LegacyOverrides;
import com.hubspot.jinjava.interpret.RenderResult;
import com.hubspot.jinjava.interpret.TemplateError;
import com.hubspot.jinjava.lib.fn.ELFunctionDefinition;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * Renders a conversation to text by a Hugging Face chat template (Jinja). Templates come with
 * models and are not trusted: they see only the messages and special tokens, and their output and
 * work are bounded.
 */
public final class ChatTemplate {
  /**
   * For models without a template. It leaves the end of an answer to the encoder, which puts the
   * end-of-sequence token there: not every tokenizer recognises that token's text.
   */
  private static final String PLAIN =
      "{% for message in messages %}"
          + "{% if not loop.first %}{{ '\n\n' }}{% endif %}"
          + "{% if message['role'] == 'assistant' %}{{ '### Assistant:\n' + message['content'] }}"
          + "{% elif message['role'] == 'system' %}{{ '### System:\n' + message['content'] }}"
          + "{% else %}{{ '### User:\n' + message['content'] }}{% endif %}"
          + "{% endfor %}"
          + "{% if add_generation_prompt %}{{ '\n\n### Assistant:\n' }}{% endif %}";

  private static final long MAX_TEMPLATE_BYTES = 1 << 20;
  private static final long MAX_OUTPUT_BYTES = 16 << 20;

  private final String source;
  private final String template;
  private final boolean placesBos;
  private final Map<String, Object> tokens = new HashMap<>();
  private final Jinjava jinjava;

  private ChatTemplate(String template, String source, boolean placesBos, Tokenizer tokenizer) {
    this.template = template;
    this.source = source;
    this.placesBos = placesBos;
    tokens.put("bos_token", orEmpty(tokenizer.bosToken()));
    tokens.put("eos_token", orEmpty(tokenizer.eosToken()));
    this.jinjava =
        new Jinjava(
            JinjavaConfig.newBuilder()
                .withTrimBlocks(true)
                .withLstripBlocks(true)
                .withMaxOutputSize(MAX_OUTPUT_BYTES)
                .withMaxRenderDepth(20)
                // What a message says is text, whatever braces it has.
                .withNestedInterpretationEnabled(false)
                // Python's Jinja, which the templates are written for, and not Jinjava's older
                // self.
                .withLegacyOverrides(
                    LegacyOverrides.newBuilder()
                        .withUseTrimmingForNotesAndExpressions(true)
                        .withUseNaturalOperatorPrecedence(true)
                        .withUsePyishObjectMapper(true)
                        .withEvaluateMapKeys(true)
                        .withIterateOverMapKeys(true)
                        .withKeepNullableLoopValues(true)
                        .build())
                .build());
    jinjava
        .getGlobalContext()
        .registerFunction(
            new ELFunctionDefinition(
                "", "raise_exception", ChatTemplate.class, "raiseException", Object.class));
  }

  /**
   * The template that a setting names: "tokenizer" for the model's own (a plain one where it has
   * none), "plain", or the path of a file.
   */
  public static ChatTemplate of(String setting, Tokenizer tokenizer) {
    if (setting.equals("tokenizer")) {
      String own = tokenizer.chatTemplate();
      return own == null
          ? plain(tokenizer)
          : new ChatTemplate(own, "the model's chat template", true, tokenizer);
    }
    if (setting.equals("plain")) {
      return plain(tokenizer);
    }
    return new ChatTemplate(
        Json.readText(Path.of(setting), MAX_TEMPLATE_BYTES), setting, true, tokenizer);
  }

  private static ChatTemplate plain(Tokenizer tokenizer) {
    return new ChatTemplate(PLAIN, "the plain chat template", false, tokenizer);
  }

  /**
   * Whether the template itself writes the beginning-of-sequence token where the model wants one,
   * as model templates do; the text is then encoded without adding another.
   */
  public boolean placesBos() {
    return placesBos;
  }

  /**
   * Whether the template itself writes the end of an answer; the plain one leaves it to the
   * encoder.
   */
  public boolean endsAnswers() {
    return placesBos;
  }

  /**
   * The conversation as text; with `addGenerationPrompt`, up to where the assistant's next message
   * starts.
   */
  public String render(List<Example.Message> messages, boolean addGenerationPrompt) {
    Map<String, Object> context = new HashMap<>(tokens);
    List<Map<String, Object>> list = new ArrayList<>();
    for (Example.Message message : messages) {
      Map<String, Object> fields = new LinkedHashMap<>();
      fields.put("role", message.role());
      fields.put("content", message.content());
      list.add(fields);
    }
    context.put("messages", list);
    context.put("add_generation_prompt", addGenerationPrompt);
    RenderResult result = jinjava.renderForResult(template, context);
    for (TemplateError error : result.getErrors()) {
      if (error.getSeverity() == TemplateError.ErrorType.FATAL) {
        Throwable cause = error.getException();
        while (cause != null && cause.getCause() != null) {
          cause = cause.getCause();
        }
        String message =
            cause instanceof RaisedException
                ? String.valueOf(cause.getMessage())
                : error.getMessage();
        throw new InputException(source + ": cannot render the messages: " + Text.oneLine(message));
      }
    }
    return result.getOutput();
  }

  /** What templates call `raise_exception`. Public because Jinjava calls it by reflection. */
  public static Object raiseException(Object message) {
    throw new RaisedException(String.valueOf(message));
  }

  private static String orEmpty(@Nullable String token) {
    return token == null ? "" : token;
  }

  private static final class RaisedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    RaisedException(String message) {
      super(message);
    }
  }
}
