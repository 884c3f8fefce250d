// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.data.ChatTemplate;
import org.qlora4j.data.Dataset;
import org.qlora4j.data.Example;
import org.qlora4j.data.ExampleEncoder;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.model.ModelConfig;

/**
 * A run's examples as tokens, the held-out ones apart.
 *
 * @param train examples to learn
 * @param eval held-out examples; may be empty
 * @param encoder turns sample prompts into tokens as the examples were
 * @param chat whether the examples are conversations
 */
record TrainingData(Dataset train, Dataset eval, ExampleEncoder encoder, boolean chat) {

  static TrainingData load(
      TrainConfig.Data config, Tokenizer tokenizer, ModelConfig model, Progress progress) {
    int sequenceLength = Math.min(config.sequenceLength(), model.maxPositions());
    if (sequenceLength < config.sequenceLength()) {
      progress.message(
          "sequence_length "
              + config.sequenceLength()
              + " is beyond the model's context; "
              + sequenceLength
              + " is used");
    }
    ExampleEncoder encoder =
        new ExampleEncoder(
            tokenizer,
            ChatTemplate.of(config.chatTemplate(), tokenizer),
            sequenceLength,
            config.trainOnInputs(),
            config.addEos());
    Loader loader = new Loader(new ExampleReader(config.promptTemplate()), encoder);
    progress.start("reading examples", config.trainFiles().size());
    Dataset train = new Dataset(List.of());
    Dataset held = new Dataset(List.of());
    for (int i = 0; i < config.trainFiles().size(); i++) {
      Path file = config.trainFiles().get(i);
      progress.update(i, file.toString());
      Dataset.Split split =
          loader
              .load(file)
              .split(config.valSetSize(), !ExampleReader.isPlainText(file), config.dataSeed());
      train = train.plus(split.train());
      held = held.plus(split.eval());
    }
    if (config.evalFile() != null) {
      held = held.plus(loader.load(config.evalFile()));
    }
    progress.finish();
    if (train.labelTokens() == 0) {
      throw new InputException(
          "nothing to learn in "
              + config.trainFiles()
              + ": every example is empty, or its completion lies beyond sequence_length "
              + sequenceLength);
    }
    if (config.packing()) {
      train = train.packed(sequenceLength);
    }
    train.checkVocabulary(model.vocabSize());
    held.checkVocabulary(model.vocabSize());
    progress.message(
        "training examples: " + train + (held.size() == 0 ? "" : "; held out: " + held));
    if (encoder.truncated() > 0 || encoder.dropped() > 0) {
      progress.message(
          encoder.truncated()
              + " examples were cut at "
              + sequenceLength
              + " tokens, "
              + encoder.dropped()
              + " of them had nothing left to learn and were left out");
    }
    return new TrainingData(train, held, encoder, loader.chat);
  }

  /** Reads files of one run and remembers what they hold. */
  private static final class Loader {
    private final ExampleReader reader;
    private final ExampleEncoder encoder;
    private boolean chat = false;

    Loader(ExampleReader reader, ExampleEncoder encoder) {
      this.reader = reader;
      this.encoder = encoder;
    }

    Dataset load(Path file) {
      if (ExampleReader.isPlainText(file)) {
        return new Dataset(encoder.encodeTextFile(file));
      }
      List<Example> examples = new ArrayList<>(reader.read(file));
      chat |= examples.stream().anyMatch(e -> e instanceof Example.Chat);
      return new Dataset(encoder.encodeAll(examples));
    }
  }
}
