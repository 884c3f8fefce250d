// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import com.hubspot.jinjava.interpret.JinjavaInterpreter;
import com.hubspot.jinjava.lib.tag.Tag;
import com.hubspot.jinjava.tree.Node;
import com.hubspot.jinjava.tree.TagNode;
import com.hubspot.jinjava.util.LengthLimitingStringBuilder;

/**
 * Hugging Face's {@code {% generation %} ... {% endgeneration %}}, in which a chat template puts
 * what the assistant says. The text of a block is written between two marks, which {@link
 * ChatTemplate} takes out again.
 */
final class GenerationTag implements Tag {
  private static final long serialVersionUID = 1L;

  /** Unicode has no such characters, so that only a message that wants to can hold one. */
  static final char START = '\uFDD0';

  static final char END = '\uFDD1';

  @Override
  public String interpret(TagNode node, JinjavaInterpreter interpreter) {
    LengthLimitingStringBuilder text =
        new LengthLimitingStringBuilder(interpreter.getConfig().getMaxOutputSize());
    text.append(START);
    for (Node child : node.getChildren()) {
      text.append(child.render(interpreter).getValue());
    }
    text.append(END);
    return text.toString();
  }

  @Override
  public String getName() {
    return "generation";
  }

  @Override
  public String getEndTagName() {
    return "endgeneration";
  }
}
