// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tests.support.CommandRuns;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.StoredTensors;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;

/**
 * Training on a base that a checkpoint holds in 4 or 8 bits is, bit for bit, training on the 16-bit
 * one that is quantized while it is loaded: both are the same codes.
 */
class QuantizedBaseTest {
  private final Path folder;

  QuantizedBaseTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private TrainingSummary train(Path model, String output, String... more) {
    List<String> settings = new ArrayList<>(List.of(more));
    settings.add("output_dir=" + folder.resolve(output));
    return TrainingRun.run(
        TrainConfigReader.parse(
            """
            model: %s
            train_file: %s
            val_set_size: 24
            sequence_length: 64
            lora_r: 8
            lora_dropout: 0.1
            learning_rate: 3e-3
            per_device_train_batch_size: 4
            max_steps: 6
            logging_steps: 1
            """
                .formatted(model, FixtureFiles.project("examples/data/blog-reviews.jsonl")),
            "test",
            settings),
        false,
        Progress.none());
  }

  private void assertSame(TrainingSummary expected, TrainingSummary actual, String... outputs)
      throws IOException {
    assertEquals(expected.initialEvalLoss(), actual.initialEvalLoss());
    assertEquals(expected.finalEvalLoss(), actual.finalEvalLoss());
    assertTrue(expected.finalEvalLoss() < expected.initialEvalLoss(), "it learns");
    assertEquals(losses(outputs[0]), losses(outputs[1]));
    assertArrayEquals(
        Files.readAllBytes(expected.output().resolve(PeftAdapterFile.WEIGHTS_FILE)),
        Files.readAllBytes(actual.output().resolve(PeftAdapterFile.WEIGHTS_FILE)));
  }

  private List<String> losses(String output) throws IOException {
    List<String> losses = new ArrayList<>();
    for (String line : Files.readAllLines(folder.resolve(output).resolve("metrics.jsonl"))) {
      losses.add(Json.object(line, output).path("loss").asText());
    }
    return losses;
  }

  @ParameterizedTest
  @CsvSource({"nf4, true, 64, U8", "fp4, false, 128, BF16"})
  void fourBits(String type, boolean nested, int blockSize, StoredType storage) throws IOException {
    Path dense = FixtureFiles.project("examples/model");
    Path stored = folder.resolve("stored");
    List<Object> quantize =
        new ArrayList<>(
            List.of("quantize", dense, stored, "--type", type, "--blocksize", blockSize));
    if (!nested) {
      quantize.add("--no-double-quant");
    }
    CommandRuns.assertDone(CommandRuns.run(quantize.toArray()));
    if (storage != StoredType.U8) {
      Path file = stored.resolve(ModelCheckpoint.SINGLE_FILE);
      StoredTensors tensors = StoredTensors.read(file);
      for (WeightNames.Module module : WeightNames.of(ModelConfig.read(dense)).linears()) {
        byte[] codes = tensors.get(module.weight()).bytes();
        tensors.put(module.weight(), storage, codes, codes.length * 8L / storage.bits(), 1);
      }
      tensors.write(stored);
      ObjectNode config = Json.readObject(stored.resolve("config.json"), 1 << 20);
      ((ObjectNode) config.path("quantization_config")).put("bnb_4bit_quant_storage", "bfloat16");
      Files.writeString(stored.resolve("config.json"), Json.pretty(config));
    }
    TrainingSummary onLoad =
        train(
            dense,
            "a",
            "method=qlora",
            "bnb_4bit_quant_type=" + type,
            "bnb_4bit_use_double_quant=" + nested,
            "bnb_4bit_blocksize=" + blockSize);
    TrainingSummary asStored = train(stored, "b", "method=qlora");
    assertSame(onLoad, asStored, "a", "b");
    CommandRuns.Ran text =
        CommandRuns.assertDone(
            CommandRuns.run(
                "generate",
                stored,
                "--adapter",
                asStored.output(),
                "--prompt",
                "\uc81c\ubaa9:",
                "--max-new-tokens",
                "8"));
    assertTrue(!text.out().isBlank());
  }

  /** A checkpoint with LLM.int8 weights under bitsandbytes' names. */
  private Path int8() throws IOException {
    Path dense = FixtureFiles.project("examples/model");
    Path stored = folder.resolve("int8");
    Files.createDirectories(stored);
    ModelCheckpoint.copyCompanions(dense, stored, "bfloat16");
    ObjectNode config = Json.readObject(stored.resolve("config.json"), 1 << 20);
    config
        .putObject("quantization_config")
        .put("quant_method", "bitsandbytes")
        .put("load_in_8bit", true)
        .put("load_in_4bit", false);
    Files.writeString(stored.resolve("config.json"), Json.pretty(config));
    KernelPack pack = Packs.reference();
    StoredTensors tensors = StoredTensors.read(dense.resolve(ModelCheckpoint.SINGLE_FILE));
    for (WeightNames.Module module : WeightNames.of(ModelConfig.read(dense)).linears()) {
      StoredTensors.Tensor weight = tensors.get(module.weight());
      try (DeviceMemory memory = new DeviceMemory(pack);
          QuantizedWeight made =
              QuantizedWeight.quantize(
                  pack,
                  memory.of(DType.BF16, weight.bytes(), weight.shape()),
                  QuantizationConfig.int8(0))) {
        tensors.put(module.weight(), StoredType.I8, made.codes().toBytes(), weight.shape());
        tensors.put(module.path() + ".SCB", StoredType.F32, made.absmax().toBytes(), module.rows());
        tensors.put(module.path() + ".weight_format", StoredType.U8, new byte[1]);
      }
    }
    return tensors.write(stored);
  }

  @Test
  void eightBits() throws IOException {
    Path stored = int8();
    TrainingSummary onLoad =
        train(FixtureFiles.project("examples/model"), "a", "quantization=int8");
    assertSame(onLoad, train(stored, "b", "method=lora"), "a", "b");
    assertTrue(
        CommandRuns.assertDone(CommandRuns.run("info", stored)).out().contains("8-bit base"));
    CommandRuns.assertDone(
        CommandRuns.run("plan", config(stored), "--sequence", "64", "--batch", "1"));
  }

  private Path config(Path model) throws IOException {
    Path file = folder.resolve("plan.yaml");
    Files.writeString(
        file,
        "model: %s\ntrain_file: %s\noutput_dir: %s\nmethod: lora\n"
            .formatted(
                model,
                FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                folder.resolve("planned")));
    return file;
  }

  @Test
  void whatCannotBeIsRefused() throws IOException {
    Path stored = int8();
    assertRefused(stored, "stored in 8 bits; use method: lora", "method=qlora");
    assertRefused(stored, "stored in 8 bits and cannot be trained in full", "method=full");
    assertRefused(stored, "stored in 8 bits (INT8)", "quantization=fp8");
    CommandRuns.assertFixable(
        CommandRuns.run("quantize", stored, folder.resolve("again")), "8 bits already");
  }

  private void assertRefused(Path model, String message, String... settings) {
    InputException e = assertThrows(InputException.class, () -> train(model, "refused", settings));
    assertTrue(String.valueOf(e.getMessage()).contains(message), e.getMessage());
  }
}
