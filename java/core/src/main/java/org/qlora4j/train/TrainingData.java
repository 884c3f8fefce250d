// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.file.Path;
import java.util.List;
import org.qlora4j.common.InputException;
import org.qlora4j.data.ChatTemplate;
import org.qlora4j.data.Dataset;
import org.qlora4j.data.ExampleEncoder;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.data.Tokenizer;

/**
 * The examples of a run, read, encoded and split as its configuration says.
 *
 * @param train what is learned
 * @param eval what is held out; may be empty
 * @param truncated sequences that were cut at sequence_length
 * @param dropped examples that had nothing to learn
 */
public record TrainingData(Dataset train, Dataset eval, long truncated, long dropped) {

  /** Reads the files that `config` names. */
  public static TrainingData load(TrainConfig.Data config, Tokenizer tokenizer) {
    ExampleEncoder encoder = encoder(config, tokenizer);
    ExampleReader reader = new ExampleReader(config.promptTemplate());
    Dataset rows = new Dataset(List.of());
    Dataset texts = new Dataset(List.of());
    Dataset heldTexts = new Dataset(List.of());
    double held = config.valSetSize();
    for (Path file : config.trainFiles()) {
      if (ExampleReader.isPlainText(file)) {
        // The end of each text is held out: sequences drawn at random would have learned
        // neighbours.
        Dataset.Split split =
            read(file, reader, encoder).split(held < 1 ? held : 0, false, config.dataSeed());
        texts = texts.plus(split.train());
        heldTexts = heldTexts.plus(split.eval());
      } else {
        rows = rows.plus(read(file, reader, encoder));
      }
    }
    if (held >= 1 && texts.size() > 0) {
      if (rows.size() > 0) {
        throw new InputException(
            "val_set_size: expected a share below 1 where .txt files and rows are mixed, found "
                + held);
      }
      Dataset.Split split = texts.split(held, false, config.dataSeed());
      texts = split.train();
      heldTexts = split.eval();
    }
    Dataset.Split split =
        rows.size() == 0 ? rows.split(0, true, 0) : rows.split(held, true, config.dataSeed());
    Dataset train = split.train().plus(texts);
    Path evalFile = config.evalFile();
    Dataset eval =
        evalFile == null ? split.eval().plus(heldTexts) : read(evalFile, reader, encoder);
    return new TrainingData(train, eval, encoder.truncated(), encoder.dropped());
  }

  /** The encoder of a run's settings, for its prompts. */
  public static ExampleEncoder encoder(TrainConfig.Data config, Tokenizer tokenizer) {
    return new ExampleEncoder(
        tokenizer,
        ChatTemplate.of(config.chatTemplate(), tokenizer),
        config.sequenceLength(),
        config.trainOnInputs(),
        config.addEos());
  }

  private static Dataset read(Path file, ExampleReader reader, ExampleEncoder encoder) {
    return new Dataset(
        ExampleReader.isPlainText(file)
            ? encoder.encodeTextFile(file)
            : encoder.encodeAll(reader.read(file)));
  }
}
