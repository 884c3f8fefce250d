// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import com.hubspot.jinjava.interpret.InterpretException;
import com.hubspot.jinjava.interpret.JinjavaInterpreter;
import com.hubspot.jinjava.interpret.TemplateError;
import com.hubspot.jinjava.lib.tag.ForTag;
import com.hubspot.jinjava.tree.TagNode;
import com.hubspot.jinjava.tree.parse.TagToken;
import com.hubspot.jinjava.util.ForLoop;
import com.hubspot.jinjava.util.ObjectIterator;
import com.hubspot.jinjava.util.ObjectTruthValue;
import java.util.AbstractCollection;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.apache.commons.lang3.tuple.Pair;
import org.jspecify.annotations.Nullable;

/**
 * Jinja's {@code for x in list if condition}, whose condition Jinjava's own tag reads as a part of
 * the list. The loop runs over what the condition leaves, so that {@code loop.index} and {@code
 * loop.last} count that. All loops of one rendering together have a bounded number of turns.
 */
final class FilteredForTag extends ForTag {
  private static final long serialVersionUID = 1L;

  /** Conversations have hundreds of messages, and templates go over them a few times. */
  private static final int MOST_TURNS = 1_000_000;

  private int turns;

  /** Begins a rendering. */
  void begin() {
    turns = 0;
  }

  @Override
  public Pair<List<String>, String> getLoopVarsAndExpression(TagToken token) {
    Pair<List<String>, String> whole = super.getLoopVarsAndExpression(token);
    int condition = condition(whole.getRight());
    return condition < 0
        ? whole
        : Pair.of(whole.getLeft(), whole.getRight().substring(0, condition).trim());
  }

  @Override
  public String renderForCollection(
      TagNode node, JinjavaInterpreter interpreter, List<String> names, Object collection) {
    List<Object> items = new ArrayList<>();
    ForLoop loop = ObjectIterator.getLoop(collection);
    while (loop.hasNext()) {
      if (++turns > MOST_TURNS) {
        throw new InterpretException("the loops have more than " + MOST_TURNS + " turns together");
      }
      items.add(loop.next());
    }
    String helpers = node.getHelpers();
    int at = condition(helpers);
    if (at < 0) {
      return super.renderForCollection(node, interpreter, names, new WhileFine(items, interpreter));
    }
    String condition = helpers.substring(at + " if ".length()).trim();
    List<Object> kept = new ArrayList<>();
    for (Object item : items) {
      try (JinjavaInterpreter.InterpreterScopeClosable scope =
          interpreter.enterNonStackingScope()) {
        for (int i = 0; i < names.size(); i++) {
          interpreter.getContext().put(names.get(i), part(item, i, names.size()));
        }
        Object value = interpreter.resolveELExpression(condition, node.getLineNumber());
        if (ObjectTruthValue.evaluate(value)) {
          kept.add(item);
        }
      }
    }
    return super.renderForCollection(node, interpreter, names, new WhileFine(kept, interpreter));
  }

  /**
   * The items of a loop, as long as nothing has failed: Jinjava goes on after an error, and a turn
   * that makes a string of the largest size and fails would do so in all that follow.
   */
  private static final class WhileFine extends AbstractCollection<Object> {
    private final List<Object> items;
    private final JinjavaInterpreter interpreter;

    WhileFine(List<Object> items, JinjavaInterpreter interpreter) {
      this.items = items;
      this.interpreter = interpreter;
    }

    @Override
    public int size() {
      return items.size();
    }

    private boolean failed() {
      for (TemplateError error : interpreter.getErrors()) {
        if (error.getSeverity() == TemplateError.ErrorType.FATAL) {
          return true;
        }
      }
      return false;
    }

    @Override
    public Iterator<Object> iterator() {
      Iterator<Object> all = items.iterator();
      return new Iterator<>() {
        @Override
        public boolean hasNext() {
          return all.hasNext() && !failed();
        }

        @Override
        public Object next() {
          return all.next();
        }
      };
    }
  }

  private static @Nullable Object part(@Nullable Object item, int index, int count) {
    if (count == 1) {
      return item;
    }
    if (item instanceof Map.Entry<?, ?> entry) {
      return index == 0 ? entry.getKey() : index == 1 ? entry.getValue() : null;
    }
    return item instanceof List<?> list && index < list.size() ? list.get(index) : null;
  }

  /** Where " if " stands outside of brackets and quotes, or -1. */
  private static int condition(String text) {
    int depth = 0;
    char quote = 0;
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      if (quote != 0) {
        if (c == '\\') {
          i++;
        } else if (c == quote) {
          quote = 0;
        }
      } else if (c == '\'' || c == '"') {
        quote = c;
      } else if (c == '(' || c == '[' || c == '{') {
        depth++;
      } else if (c == ')' || c == ']' || c == '}') {
        depth--;
      } else if (depth == 0 && text.startsWith(" if ", i)) {
        return i;
      }
    }
    return -1;
  }
}
