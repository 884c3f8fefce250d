// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.common.Json;
import org.qlora4j.tests.support.FixtureFiles;

/** Every architecture through the commands: made, shown, trained, generated with, quantized. */
class ArchitecturesTest {
  private static final int STEPS = 30;

  private final Path folder;

  ArchitecturesTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @ParameterizedTest
  @CsvSource({
    "mistral, 7 tokens in 2 of 2 layers, q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "qwen2, , q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "qwen3, , q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "phi3, , qkv_proj o_proj gate_up_proj down_proj",
    "gemma2, 6 tokens in 1 of 2 layers, q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "gemma3, 6 tokens in 2 of 3 layers, q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "neox_sequential, , query_key_value dense dense_h_to_4h dense_4h_to_h"
  })
  void fromShapeToText(String name, String window, String adapted) throws IOException {
    Path model = folder.resolve("model");
    assertDone(
        run(
            "make-model",
            "--config",
            wideVocabulary(name),
            "--tokenizer",
            FixtureFiles.data("tinystories-656k-llama-hf"),
            model));
    String info = assertDone(run("info", model)).out();
    assertEquals(window != null, info.contains("sliding window"), info);
    assertTrue(window == null || info.contains(window), info);

    Path text = folder.resolve("t.txt");
    Files.writeString(text, "Once upon a time there was a red dog. ".repeat(60));
    Path config =
        Files.writeString(
            folder.resolve("c.yaml"),
            """
            model: %s
            train_file: %s
            output_dir: %s
            sequence_length: 48
            max_steps: %d
            learning_rate: 1e-2
            lora_r: 8
            logging_steps: 1
            """
                .formatted(model, text, folder.resolve("out"), STEPS));
    assertDone(run("train", config));
    List<Double> losses = losses();
    assertEquals(STEPS, losses.size());
    // Random weights know nothing: ln(2048) a token, and half the logits' variance of (8 * 0.1)^2.
    assertEquals(Math.log(2048) + 0.32, losses.get(0), 0.7);
    // The text repeats ten tokens, which an adapter learns.
    assertTrue(losses.get(STEPS - 1) < losses.get(0) - 2, () -> name + ": " + losses);

    Path adapter = folder.resolve("out/adapter");
    try (PeftAdapterFile file = PeftAdapterFile.open(adapter)) {
      Set<String> names = new HashSet<>();
      file.pairs().keySet().forEach(path -> names.add(path.substring(path.lastIndexOf('.') + 1)));
      assertEquals(Set.of(adapted.split(" ", -1)), names);
    }
    Path quantized = folder.resolve("quantized");
    assertDone(run("quantize", model, quantized));
    String fromBase = generate(model, adapter, "--quantize", "nf4");
    assertEquals(fromBase, generate(quantized, adapter), "the same weights from either directory");
  }

  private static String generate(Path model, Path adapter, Object... more) {
    List<Object> arguments =
        new ArrayList<>(
            List.of(
                "generate",
                model,
                "--adapter",
                adapter,
                "--prompt",
                "Once upon a time there",
                "--max-new-tokens",
                12,
                "--temperature",
                0));
    arguments.addAll(List.of(more));
    String out = assertDone(run(arguments.toArray())).out();
    assertTrue(!out.isBlank());
    return out;
  }

  private List<Double> losses() throws IOException {
    List<Double> losses = new ArrayList<>();
    for (String line : Files.readAllLines(folder.resolve("out/metrics.jsonl"))) {
      ObjectNode figures = Json.object(line, "metrics.jsonl");
      if (figures.has("loss")) {
        losses.add(figures.get("loss").doubleValue());
      }
    }
    return losses;
  }

  /**
   * The fixture's shape with the 2048 tokens of the tokenizer at hand, and weights large enough for
   * a frozen head to give a token most of the probability.
   */
  private Path wideVocabulary(String name) throws IOException {
    Path config = FixtureFiles.reference("models/" + name).resolve("config.json");
    return Files.writeString(
        folder.resolve("wide.json"),
        Files.readString(config)
            .replaceAll("\"vocab_size\": \\d+", "\"vocab_size\": 2048")
            .replaceAll("\"initializer_range\": [0-9.]+", "\"initializer_range\": 0.1"));
  }
}
