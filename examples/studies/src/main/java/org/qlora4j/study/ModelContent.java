// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.Sha256;
import org.qlora4j.model.ModelConfig;

/** A model directory by its content, so that results of another model are not taken for answers. */
public final class ModelContent {
  private static final List<String> SMALL_FILES =
      List.of(
          "config.json",
          "tokenizer.json",
          "tokenizer_config.json",
          "generation_config.json",
          "chat_template.jinja");

  private ModelContent() {}

  /** Changes whenever weights, configuration, tokenizer or generation settings do. */
  public static String of(Path directory) {
    ModelConfig.read(directory);
    StringBuilder content = new StringBuilder();
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory)) {
      content.append(checkpoint.fingerprint());
    }
    for (String name : SMALL_FILES) {
      Path file = directory.resolve(name);
      content.append(' ').append(Files.isRegularFile(file) ? Sha256.of(file) : "none");
    }
    return content.toString();
  }
}
