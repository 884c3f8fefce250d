// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import java.util.List;

/** One example as the user wrote it. `source` is its file and line, for messages. */
public sealed interface Example {

  /** "file:line" of the example. */
  String source();

  /** A text to learn as it is. */
  record Text(String source, String text) implements Example {}

  /** A prompt and what should follow it. */
  record Completion(String source, String prompt, String completion) implements Example {}

  /** A conversation whose assistant messages are to be learned. */
  record Chat(String source, List<Message> messages) implements Example {
    public Chat {
      messages = List.copyOf(messages);
    }
  }

  /** One message; the roles are "system", "user" and "assistant" in most templates. */
  record Message(String role, String content) {}
}
