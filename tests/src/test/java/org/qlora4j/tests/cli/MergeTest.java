// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.common.Json;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.TrainedBase;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.StoredTensors;

/** The command {@code merge}. */
class MergeTest {
  private final Path folder;
  private final Path model = FixtureFiles.project("examples/model");

  MergeTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private Path train(String method) throws IOException {
    return train(method, "");
  }

  private Path train(String method, String more) throws IOException {
    Path config = folder.resolve("c.yaml");
    Files.writeString(
        config,
        """
        model: %s
        method: %s
        train_file: %s
        output_dir: %s
        compute: float32
        sequence_length: 64
        lora_r: 4
        learning_rate: 3e-3
        per_device_train_batch_size: 2
        max_steps: 3
        %s
        """
            .formatted(
                model,
                method,
                FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                folder.resolve(method),
                more));
    assertDone(run("train", config));
    return folder.resolve(method).resolve("adapter");
  }

  private static byte[] weights(Path directory) throws IOException {
    return Files.readAllBytes(directory.resolve(ModelCheckpoint.SINGLE_FILE));
  }

  /** The default is the base of the training, which the adapter's directory knows. */
  @Test
  void mergesIntoWhatTheAdapterWasTrainedOn() throws IOException {
    Path adapter = train("qlora");
    assertEquals(new TrainedBase(QuantizationConfig.nf4()), TrainedBase.read(adapter));
    Path out = folder.resolve("out");
    Path json = folder.resolve("figures.json");
    Ran ran = assertDone(run("merge", model, adapter, out, "--dtype", "float32", "--json", json));
    assertTrue(ran.err().contains("nf4 in blocks of 64 with double quantization"), ran.err());
    assertTrue(ran.err().contains("as the adapter was trained"), ran.err());
    assertTrue(ran.out().contains("LoRA adapter added to 28 weights, now in float32"), ran.out());
    ObjectNode figures = Json.readObject(json, 1 << 20);
    assertEquals(28, figures.path("merged_weights").intValue());
    assertTrue(Files.exists(out.resolve("tokenizer.json")));

    // The merged model writes what the adapted one does.
    assertEquals(generated(model, "--adapter", adapter, "--quantize", "nf4"), generated(out));

    // The same from the base that is stored in 4 bits, and another one from the original.
    Path stored = folder.resolve("stored");
    assertDone(run("quantize", model, stored));
    Path fromStored = folder.resolve("from-stored");
    Ran second = assertDone(run("merge", stored, adapter, fromStored, "--dtype", "float32"));
    assertTrue(second.err().contains("the 4-bit weights of"), second.err());
    assertArrayEquals(weights(out), weights(fromStored));
    Path original = folder.resolve("original");
    assertDone(run("merge", model, adapter, original, "--dtype", "float32", "--base", "original"));
    assertFalse(Arrays.equals(weights(out), weights(original)));

    assertFixable(
        run("merge", stored, adapter, folder.resolve("no"), "--base", "original"),
        "--base: expected none",
        "4 bits");
    assertFixable(run("merge", model, adapter, model), "another directory");
    assertFixable(run("merge", model, adapter, adapter), "another directory");
    assertFixable(run("merge", model, folder.resolve("none"), folder.resolve("no")), "no such");
    assertFixable(
        run("merge", model, adapter, folder.resolve("no"), "--base", "nf4", "--blocksize", 48),
        "--blocksize");
    Files.writeString(adapter.resolve(TrainedBase.FILE), "{\"quantization\": \"nf3\"}");
    assertFixable(run("merge", model, adapter, folder.resolve("no")), TrainedBase.FILE, "nf3");
    Files.writeString(
        adapter.resolve(TrainedBase.FILE),
        "{\"quantization\": \"nf4\", \"blocksize\": 65, \"double_quant\": true}");
    assertFixable(run("merge", model, adapter, folder.resolve("no")), TrainedBase.FILE, "65");
    Files.delete(adapter.resolve(TrainedBase.FILE));
    Ran unknown = assertDone(run("merge", model, adapter, folder.resolve("unknown")));
    assertTrue(unknown.err().contains("is not known"), unknown.err());
  }

  /** Dense weights beside stored codes are quantized as in the training. */
  @Test
  void mergesIntoABaseThatIsPartlyQuantized() throws IOException {
    Path adapter = train("qlora");
    Path out = folder.resolve("out");
    assertDone(run("merge", model, adapter, out, "--dtype", "float32"));
    Path mixed = folder.resolve("mixed");
    assertDone(run("quantize", model, mixed));
    StoredTensors tensors = StoredTensors.read(mixed.resolve(ModelCheckpoint.SINGLE_FILE));
    String weight = "model.layers.1.mlp.down_proj.weight";
    List.copyOf(tensors.tensors().keySet()).stream()
        .filter(name -> name.startsWith(weight))
        .forEach(tensors::remove);
    StoredTensors.Tensor dense =
        StoredTensors.read(model.resolve(ModelCheckpoint.SINGLE_FILE)).get(weight);
    tensors.put(weight, dense.type(), dense.bytes(), dense.shape()).write(mixed);
    Path fromMixed = folder.resolve("from-mixed");
    Ran ran = assertDone(run("merge", mixed, adapter, fromMixed, "--dtype", "float32"));
    assertTrue(ran.err().contains("the 4-bit weights of"), ran.err());
    assertTrue(
        ran.err().contains("1 of 28 linear weights, which are dense, quantized to nf4"), ran.err());
    try (ModelCheckpoint expected = ModelCheckpoint.open(out);
        ModelCheckpoint found = ModelCheckpoint.open(fromMixed)) {
      assertEquals(Set.copyOf(expected.names()), Set.copyOf(found.names()));
      for (String name : expected.names()) {
        assertArrayEquals(expected.tensor(name).toBytes(), found.tensor(name).toBytes(), name);
      }
    }

    // Where the training left them dense, or held them otherwise, they stay dense.
    for (String base : List.of("null", "\"int8\"")) {
      Files.writeString(adapter.resolve(TrainedBase.FILE), "{\"quantization\": " + base + "}");
      Ran stored = assertDone(run("merge", mixed, adapter, fromMixed, "--dtype", "float32"));
      assertFalse(stored.err().contains("which are dense"), stored.err());
      try (ModelCheckpoint other = ModelCheckpoint.open(out);
          ModelCheckpoint found = ModelCheckpoint.open(fromMixed)) {
        assertFalse(
            Arrays.equals(other.tensor(weight).toBytes(), found.tensor(weight).toBytes()), base);
      }
    }
  }

  /** An embedding that the adapter brings along is taken, and not without a word. */
  @Test
  void anotherEmbeddingThatWasSavedAlongIsSaid() throws IOException {
    Path adapter = train("lora");
    String embedding = "model.embed_tokens.weight";
    StoredTensors.Tensor own =
        StoredTensors.read(model.resolve(ModelCheckpoint.SINGLE_FILE)).get(embedding);
    StoredTensors tensors = StoredTensors.read(adapter.resolve(PeftAdapterFile.WEIGHTS_FILE));
    byte[] values = own.bytes().clone();
    for (int changed = 0; changed < 2; changed++) {
      Files.delete(adapter.resolve(PeftAdapterFile.WEIGHTS_FILE));
      tensors.put(PeftAdapterFile.PREFIX + embedding, own.type(), values, own.shape());
      Files.move(
          tensors.write(adapter).resolve(ModelCheckpoint.SINGLE_FILE),
          adapter.resolve(PeftAdapterFile.WEIGHTS_FILE));
      Path json = folder.resolve("figures.json");
      Ran ran = assertDone(run("merge", model, adapter, folder.resolve("out"), "--json", json));
      assertEquals(
          changed,
          ran.out()
              .lines()
              .filter(line -> line.startsWith("tensors of embedding and head as"))
              .count(),
          ran.out());
      assertEquals(changed, Json.readObject(json, 1 << 20).path("saved_tensors").intValue());
      values[values.length - 1] ^= 1; // the last element's exponent
    }
  }

  @Test
  void anAdapterOfADenseBaseIsMergedIntoIt() throws IOException {
    Path adapter = train("lora");
    assertEquals(new TrainedBase(null), TrainedBase.read(adapter));
    Path out = folder.resolve("out");
    Ran ran = assertDone(run("merge", model, adapter, out));
    assertTrue(ran.err().contains("as the adapter was trained"), ran.err());
    assertTrue(ran.out().contains("now in bfloat16"), ran.out());
  }

  /** What `train` writes with its other options, over a base whose head is tied. */
  @Test
  void everythingThatIsTrainedIsMerged() throws IOException {
    Path adapter =
        train(
            "qlora",
            """
            use_dora: true
            lora_target_modules: [q_proj, down_proj]
            rank_pattern: {q_proj: 2}
            alpha_pattern: {layers.1.mlp.down_proj: 3}
            modules_to_save: [lm_head, norm]
            """);
    Path out = folder.resolve("out");
    Path json = folder.resolve("figures.json");
    Ran ran = assertDone(run("merge", model, adapter, out, "--dtype", "float32", "--json", json));
    assertTrue(ran.out().contains("DoRA adapter added to 8 weights"), ran.out());
    // Two norms in each of four layers, the last one and the head.
    assertTrue(ran.out().contains("tensors replaced by trained ones: 10"), ran.out());
    assertTrue(ran.out().contains("tie_word_embeddings is false"), ran.out());
    ObjectNode figures = Json.readObject(json, 1 << 20);
    assertEquals(10, figures.path("replaced_tensors").intValue());
    assertTrue(figures.path("head_separated").booleanValue());
    assertEquals(generated(model, "--adapter", adapter, "--quantize", "nf4"), generated(out));
  }

  @Test
  void anAdapterOfTheLargestSingularValuesIsMerged() throws IOException {
    Path adapter = train("lora", "init_lora_weights: pissa\nrank_pattern: {q_proj: 2}");
    Path out = folder.resolve("out");
    assertDone(run("merge", model, adapter, out, "--dtype", "float32"));
    assertEquals(generated(model, "--adapter", adapter), generated(out));
  }

  private static String generated(Object... modelAndMore) {
    List<Object> arguments = new ArrayList<>(List.of("generate"));
    arguments.addAll(List.of(modelAndMore));
    arguments.addAll(
        List.of("--prompt", "\uc81c\ubaa9:", "--max-new-tokens", 12, "--compute", "float32"));
    return assertDone(run(arguments.toArray())).out();
  }
}
