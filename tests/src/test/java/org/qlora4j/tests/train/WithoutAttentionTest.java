// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.cli.Main;
import org.qlora4j.common.Json;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Packs;

/**
 * Whole training runs on packs that have no attention, where libtorch's stands in, against the same
 * runs on the reference pack: evaluation, optimizer steps, checkpointed activations, generation.
 *
 * <ul>
 *   <li>{@code without-attention}: the reference in all else, so that any difference is libtorch's
 *   <li>{@code cuda-on-host}: the kernels of the CUDA pack on the CPU
 *   <li>{@code cuda}: the CUDA pack, with libtorch on the GPU, where there is one
 * </ul>
 *
 * <p>Error model. In f32, that of {@link TrainingFixtureTest}, whose bounds come from runs with
 * perturbed inputs: losses of the first steps agree to 1e-5, gradient norms to 1e-4 of themselves.
 * In bf16 a token's loss is a difference of logits of about its own size, each of which was rounded
 * by 2^-9 of itself in either run, so losses agree to 2^-8 of themselves; gradient norms to 2e-2,
 * as there.
 */
class WithoutAttentionTest {

  private static final int STEPS = 4;

  /** What a run left: its metrics, line by line, and the text it generated at the end. */
  private record Run(List<ObjectNode> metrics, String sample) {}

  @ParameterizedTest
  @CsvSource({
    "without-attention, qlora, float32",
    "without-attention, qlora, bfloat16",
    "without-attention, full, float32",
    "cuda-on-host, qlora, float32",
    "cuda-on-host, qlora, bfloat16",
    "cuda, qlora, float32",
    "cuda, qlora, bfloat16",
    "cuda, full, float32"
  })
  void lossesAreThoseOfTheReference(
      String pack, String method, String compute, @TempDir Path directory) throws IOException {
    requireEverythingElse(Packs.open(pack));
    Path config = write(directory, method, compute);
    Run reference = train(config, Packs.REFERENCE, directory.resolve("reference"));
    Run other = train(config, pack, directory.resolve("other"));
    List<ObjectNode> expected = reference.metrics();
    List<ObjectNode> actual = other.metrics();
    boolean f32 = compute.equals("float32");
    if (f32) {
      assertEquals(reference.sample(), other.sample(), "greedy text against the cache");
    }
    double worst = 0;
    assertEquals(STEPS + 2, expected.size(), "lines: one a step, and two evaluations");
    assertEquals(expected.size(), actual.size());
    for (int i = 0; i < expected.size(); i++) {
      ObjectNode e = expected.get(i);
      ObjectNode a = actual.get(i);
      String where = pack + ", " + method + " in " + compute + ", line " + i + ": ";
      String loss = e.has("loss") ? "loss" : "eval_loss";
      double lossError = Math.abs(e.get(loss).doubleValue() - a.get(loss).doubleValue());
      double allowed = f32 ? 1e-5 : 0x1p-8 * e.get(loss).doubleValue();
      assertTrue(lossError <= allowed, where + e + " and " + a);
      worst = Math.max(worst, lossError);
      if (e.has("grad_norm")) {
        double norm = e.get("grad_norm").doubleValue();
        double normError = Math.abs(norm - a.get("grad_norm").doubleValue());
        assertTrue(normError <= (f32 ? 1e-4 : 2e-2) * norm, where + e + " and " + a);
      }
    }
    System.out.printf(
        Locale.ROOT,
        "%s, %s in %s: losses within %.2g of the reference's%n",
        pack,
        method,
        compute,
        worst);
  }

  /** Skips, with all that is missing, until the pack has what a training step takes. */
  private static void requireEverythingElse(KernelPack pack) {
    Packs.requireLibtorch(pack);
    List<String> missing =
        KernelPack.TRAINING_STEP.stream()
            .filter(operator -> !operator.startsWith("attention_"))
            .filter(operator -> !pack.supports(operator))
            .toList();
    Assumptions.assumeTrue(
        missing.isEmpty(), () -> pack.name() + " leaves out " + String.join(", ", missing));
  }

  private static Path write(Path directory, String method, String compute) throws IOException {
    Path examples = directory.resolve("examples.jsonl");
    Files.writeString(
        examples,
        """
        {"prompt": "Once upon a time", "completion": " there was a dog."}
        {"prompt": "Tom", "completion": " was a cat."}
        {"prompt": "Lily", "completion": " had a ball."}
        {"prompt": "Sam", "completion": " had a kite and a red car."}
        {"prompt": "Ann", "completion": " saw a bird in the big tree."}
        """);
    return Files.writeString(
        directory.resolve("run.yaml"),
        """
        model: %s
        method: %s
        compute: %s
        train_file: %s
        val_set_size: 1
        max_steps: %d
        per_device_train_batch_size: 2
        learning_rate: 1e-3
        lora_r: 4
        lora_dropout: 0.1
        logging_steps: 1
        sample_prompts: [Once upon a time]
        sample_max_new_tokens: 5
        """
            .formatted(
                FixtureFiles.data("tinystories-656k-llama-hf"), method, compute, examples, STEPS));
  }

  private static Run train(Path config, String pack, Path output) throws IOException {
    StringWriter out = new StringWriter();
    StringWriter err = new StringWriter();
    String before = System.getProperty("qlora4j.pack", "");
    int code;
    try {
      code =
          Main.run(
              new PrintWriter(out, true),
              new PrintWriter(err, true),
              "train",
              config.toString(),
              "--pack",
              pack,
              "--set",
              "output_dir=" + output);
    } finally {
      if (before.isEmpty()) {
        System.clearProperty("qlora4j.pack");
      } else {
        System.setProperty("qlora4j.pack", before);
      }
    }
    assertEquals(0, code, err.toString());
    assertTrue(err.toString().contains("kernel pack " + pack), err.toString());
    List<ObjectNode> metrics = new ArrayList<>();
    for (String line : Files.readAllLines(output.resolve("metrics.jsonl"))) {
      ObjectNode figures = Json.object(line, "metrics.jsonl");
      if (!figures.has("memory_bytes")) {
        metrics.add(figures);
      }
    }
    String sample =
        out.toString().lines().filter(line -> line.startsWith("after: ")).findFirst().orElseThrow();
    return new Run(metrics, sample);
  }
}
