// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.data.Example;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.generate.SamplingConfig;
import org.qlora4j.generate.TextGenerator;

/** Texts a model writes to the configured prompts, to see what training did. */
final class SampleTexts {

  private final TrainConfig.Samples config;
  private final SamplingConfig sampling;
  private final Tokenizer tokenizer;
  private final TrainingData data;

  SampleTexts(TrainConfig.Samples config, long seed, Tokenizer tokenizer, TrainingData data) {
    this.config = config;
    this.sampling =
        new SamplingConfig(
            config.maxNewTokens(),
            config.temperature(),
            config.topK(),
            config.topP(),
            config.repetitionPenalty(),
            seed);
    this.tokenizer = tokenizer;
    this.data = data;
  }

  /** One text for each prompt, also shown as a message. */
  List<String> generate(TextGenerator generator, String when, Progress progress) {
    List<String> texts = new ArrayList<>();
    if (config.prompts().isEmpty()) {
      return texts;
    }
    progress.start("generating samples", config.prompts().size());
    for (String prompt : config.prompts()) {
      int[] ids =
          data.chat()
              ? data.encoder().encodeChatPrompt(List.of(new Example.Message("user", prompt)))
              : data.encoder().encodePrompt(prompt);
      String text = tokenizer.decode(generator.generate(ids, sampling));
      texts.add(text);
      progress.update(texts.size(), when);
      progress.message("sample " + when + ": " + Text.oneLine(prompt) + " → " + Text.oneLine(text));
    }
    progress.finish();
    return texts;
  }
}
