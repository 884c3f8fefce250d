// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.TrainedBase;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.FixtureFiles;

/** The command {@code generate}: the base that an adapter meets. */
class GenerateTest {
  private final Path folder;
  private final Path model = FixtureFiles.project("examples/model");

  GenerateTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private Path train(String more) throws IOException {
    Path config = folder.resolve("c.yaml");
    Files.writeString(
        config,
        """
        model: %s
        train_file: %s
        output_dir: %s
        sequence_length: 64
        lora_r: 4
        learning_rate: 3e-3
        per_device_train_batch_size: 2
        max_steps: 3
        %s
        """
            .formatted(
                model,
                FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                folder.resolve("out"),
                more));
    assertDone(run("train", config));
    return folder.resolve("out/adapter");
  }

  private static Ran generate(Object... modelAndMore) {
    List<Object> arguments = new ArrayList<>(List.of("generate"));
    arguments.addAll(List.of(modelAndMore));
    arguments.addAll(List.of("--prompt", "\uc81c\ubaa9:", "--max-new-tokens", 40));
    return run(arguments.toArray());
  }

  /** Blocks of 4096 round enough for the texts of the two bases to part. */
  @Test
  void theBaseIsQuantizedAsTheAdapterWasTrained() throws IOException {
    Path adapter =
        train(
            "method: qlora\n"
                + "bnb_4bit_quant_type: fp4\n"
                + "blocksize: 4096\n"
                + "bnb_4bit_use_double_quant: false");
    Ran unsaid = assertDone(generate(model, "--adapter", adapter));
    String line =
        "base: quantized to fp4 in blocks of 4096, as the adapter was trained; --quantize none";
    assertEquals(
        1, unsaid.err().lines().filter(each -> each.startsWith(line)).count(), unsaid.err());
    Ran said =
        assertDone(
            generate(
                model,
                "--adapter",
                adapter,
                "--quantize",
                "fp4",
                "--blocksize",
                4096,
                "--no-double-quant"));
    assertEquals(said.out(), unsaid.out());
    assertFalse(said.err().contains("as the adapter was trained"), said.err());

    // The user has the last word, and a base that is stored in 4 bits is what it is.
    Ran none = assertDone(generate(model, "--adapter", adapter, "--quantize", "none"));
    assertFalse(none.err().contains("as the adapter was trained"), none.err());
    assertNotEquals(said.out(), none.out());
    Path stored = folder.resolve("stored");
    assertDone(
        run("quantize", model, stored, "--type", "fp4", "--blocksize", 4096, "--no-double-quant"));
    Ran fromStored = assertDone(generate(stored, "--adapter", adapter));
    assertEquals(said.out(), fromStored.out());
    assertFalse(fromStored.err().contains("as the adapter was trained"), fromStored.err());

    assertFixable(
        generate(model, "--adapter", adapter, "--blocksize", 64), "--blocksize", "--quantize nf4");
    assertFixable(generate(model, "--no-double-quant"), "--no-double-quant", "--quantize nf4");
    assertFixable(
        generate(model, "--adapter", adapter, "--llm-int8-threshold", 6), "--llm-int8-threshold");

    // Without the file there is nothing to go by.
    Files.delete(adapter.resolve(TrainedBase.FILE));
    Ran unknown = assertDone(generate(model, "--adapter", adapter));
    assertEquals(none.out(), unknown.out());
    Files.writeString(adapter.resolve(TrainedBase.FILE), "{\"quantization\": 4}");
    assertFixable(generate(model, "--adapter", adapter), TrainedBase.FILE, "expected null, nf4");
    assertDone(generate(model, "--adapter", adapter, "--quantize", "none"));
  }

  @Test
  void outlierColumnsAreMultipliedAsInTraining() throws IOException {
    Path adapter = train("method: lora\nquantization: int8\nllm_int8_threshold: 1.5");
    assertEquals(new TrainedBase(QuantizationConfig.int8(1.5f)), TrainedBase.read(adapter));
    Ran unsaid = assertDone(generate(model, "--adapter", adapter));
    assertTrue(unsaid.err().contains("base: quantized to int8, as the adapter"), unsaid.err());
    assertEquals(
        assertDone(
                generate(
                    model, "--adapter", adapter, "--quantize", "int8", "--llm-int8-threshold", 1.5))
            .out(),
        unsaid.out());
    Ran without = assertDone(generate(model, "--adapter", adapter, "--llm-int8-threshold", 0));
    assertEquals(
        assertDone(generate(model, "--adapter", adapter, "--quantize", "int8")).out(),
        without.out());
  }
}
