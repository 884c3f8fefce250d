// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import com.hubspot.jinjava.Jinjava;
import com.hubspot.jinjava.JinjavaConfig;
import com.hubspot.jinjava.LegacyOverrides;
import com.hubspot.jinjava.el.JinjavaInterpreterResolver;
import com.hubspot.jinjava.interpret.Context;
import com.hubspot.jinjava.interpret.RenderResult;
import com.hubspot.jinjava.interpret.TemplateError;
import com.hubspot.jinjava.lib.fn.ELFunctionDefinition;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;
import jinjava.javax.el.CompositeELResolver;
import jinjava.javax.el.ELResolver;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;

/**
 * Renders a conversation to text by a Hugging Face chat template (Jinja). Templates come with
 * models and are not trusted: they see only the messages and special tokens, and their output and
 * work are bounded. Not thread-safe.
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

  /** Of the output, and of every text on the way to it. */
  static final long MAX_OUTPUT_BYTES = 16 << 20;

  static final int MAX_LIST_SIZE = 1 << 20;
  private static final int MOST_NESTED = 64;

  /** Jinjava's messages repeat parts of the template. */
  private static final int LONGEST_MESSAGE = 400;

  /** A list in reverse, which Jinjava's expressions cannot slice; its filter can. */
  private static final Pattern REVERSED = Pattern.compile("\\[\\s*:\\s*:\\s*-\\s*1\\s*\\]");

  private static final Pattern GENERATION = Pattern.compile("\\{%[-+]?\\s*generation\\s*[-+]?%\\}");

  /** What makes much of little without a bound: text of any width. */
  private static final Map<Context.Library, Set<String>> UNBOUNDED =
      Map.of(Context.Library.FILTER, Set.of("format", "center", "indent"));

  private final String source;
  private final String template;
  private final boolean marksAnswers;
  private final boolean placesBos;
  private final Map<String, Object> tokens = new HashMap<>();
  private final FilteredForTag loops = new FilteredForTag();
  private final Jinjava jinjava;

  private ChatTemplate(String template, String source, boolean placesBos, Tokenizer tokenizer) {
    this.template = REVERSED.matcher(template).replaceAll("|reverse");
    this.marksAnswers = GENERATION.matcher(template).find();
    checkNesting(template, source);
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
                .withDisabled(UNBOUNDED)
                .withMaxStringLength(MAX_OUTPUT_BYTES)
                .withMaxListSize(MAX_LIST_SIZE)
                .withMaxMapSize(MAX_LIST_SIZE)
                // What a message says is text, whatever braces it has.
                .withNestedInterpretationEnabled(false)
                .withElResolver(resolver())
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
    jinjava.getGlobalContext().registerTag(loops);
    jinjava.getGlobalContext().registerTag(new GenerationTag());
    jinjava
        .getGlobalContext()
        .registerFunction(
            new ELFunctionDefinition(
                "", "raise_exception", ChatTemplate.class, "raiseException", Object.class));
  }

  /**
   * The parser of expressions looks ahead at every bracket, which takes the third power of the
   * depth.
   */
  private static void checkNesting(String template, String source) {
    int depth = 0;
    for (int i = 0; i < template.length(); i++) {
      char c = template.charAt(i);
      char next = i + 1 < template.length() ? template.charAt(i + 1) : 0;
      if (c == '{' && (next == '{' || next == '%' || next == '#')) {
        depth = 0;
        i++;
      } else if (c == '(' || c == '[' || c == '{') {
        depth++;
      } else if (c == ')' || c == ']' || c == '}') {
        depth = Math.max(0, depth - 1);
      }
      if (depth > MOST_NESTED) {
        throw new InputException(
            source + ": expected at most " + MOST_NESTED + " brackets in each other, found more");
      }
    }
  }

  private static ELResolver resolver() {
    CompositeELResolver resolver = new CompositeELResolver();
    resolver.add(new PythonStrings());
    resolver.add(JinjavaInterpreterResolver.DEFAULT_RESOLVER_READ_ONLY);
    return resolver;
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
   * Whether the template itself says what the assistant says, in {@code {% generation %}} blocks.
   */
  public boolean marksAnswers() {
    return marksAnswers;
  }

  /**
   * A conversation as text.
   *
   * @param answers start and end of each {@code {% generation %}} block in the text, in order;
   *     empty ones left out
   */
  public record Rendered(String text, List<int[]> answers) {}

  /**
   * The conversation as text; with `addGenerationPrompt`, up to where the assistant's next message
   * starts.
   */
  public String render(List<Example.Message> messages, boolean addGenerationPrompt) {
    return renderMarked(messages, addGenerationPrompt).text();
  }

  /** The same, with what the template marks as the assistant's. */
  public Rendered renderMarked(List<Example.Message> messages, boolean addGenerationPrompt) {
    if (marksAnswers) {
      for (Example.Message message : messages) {
        if (hasMark(message.role()) || hasMark(message.content())) {
          throw new InputException(
              source
                  + ": a message holds U+FDD0 or U+FDD1, which are no characters; take them out");
        }
      }
    }
    return unmarked(rendered(messages, addGenerationPrompt));
  }

  private static boolean hasMark(String text) {
    return text.indexOf(GenerationTag.START) >= 0 || text.indexOf(GenerationTag.END) >= 0;
  }

  /** Takes the marks of generation blocks out. A block in a block is a part of the outer one. */
  private Rendered unmarked(String marked) {
    if (!marksAnswers) {
      return new Rendered(marked, List.of());
    }
    StringBuilder text = new StringBuilder();
    List<int[]> answers = new ArrayList<>();
    int depth = 0;
    int start = 0;
    for (int i = 0; i < marked.length(); i++) {
      char c = marked.charAt(i);
      if (c == GenerationTag.START) {
        start = depth++ == 0 ? text.length() : start;
      } else if (c == GenerationTag.END) {
        if (--depth == 0 && text.length() > start) {
          answers.add(new int[] {start, text.length()});
        }
      } else {
        text.append(c);
      }
    }
    if (depth != 0) {
      throw new InputException(source + ": a generation block was cut apart by the template");
    }
    return new Rendered(text.toString(), answers);
  }

  private String rendered(List<Example.Message> messages, boolean addGenerationPrompt) {
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
    loops.begin();
    RenderResult result;
    try {
      result = jinjava.renderForResult(template, context);
    } catch (StackOverflowError e) {
      throw new InputException(source + ": cannot render the messages: nested too deeply", e);
    }
    for (TemplateError error : result.getErrors()) {
      // A property that a loop of Jinja has and Jinjava's has not would be empty text.
      boolean unknownOfLoop = String.valueOf(error.getMessage()).contains("in '<ForLoop");
      if (error.getSeverity() == TemplateError.ErrorType.FATAL || unknownOfLoop) {
        Throwable cause = error.getException();
        while (cause != null && cause.getCause() != null) {
          cause = cause.getCause();
        }
        String message =
            cause instanceof RaisedException
                ? String.valueOf(cause.getMessage())
                : error.getMessage();
        throw new InputException(
            source
                + ": cannot render the messages: "
                + Text.cut(Text.oneLine(message), LONGEST_MESSAGE));
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
