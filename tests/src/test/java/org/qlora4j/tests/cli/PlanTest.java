// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;
import static org.qlora4j.tests.support.CommandRuns.runAlone;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.common.ByteSize;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MachineMemory;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.FixtureFiles;

/** The memory plan: counted exactly, and heeded. */
class PlanTest {
  private final Path folder;

  PlanTest(@TempDir Path folder) {
    this.folder = folder;
  }

  /** A run over whole sequences, so that the largest micro-batch is what the plan expects. */
  private Path config(Path model, String more) throws IOException {
    Path text = folder.resolve("t.txt");
    Files.writeString(text, "Once upon a time there was a red dog. ".repeat(60));
    return Files.writeString(
        folder.resolve("c.yaml"),
        "model: %s%ntrain_file: %s%noutput_dir: %s%nsequence_length: 48%nmax_steps: 3%n%s"
            .formatted(model, text, folder.resolve("out"), more));
  }

  @ParameterizedTest
  @CsvSource({
    "llama, full, true, bfloat16, 1, false",
    "llama, lora, true, bfloat16, 1, false",
    "llama, qlora, true, bfloat16, 2, false",
    "llama, qlora, false, bfloat16, 1, false",
    "neox_polyglot, qlora, true, bfloat16, 1, false",
    "neox_polyglot, full, false, bfloat16, 2, false",
    "neox_sequential, lora, false, float32, 1, false",
    "llama3_tied, full, true, float32, 1, false",
    "llama_bf16, qlora, true, float32, 1, false",
    "llama, qlora, true, bfloat16, 2, true",
    "neox_polyglot, full, true, float32, 1, true",
    "llama, lora int8, true, bfloat16, 2, false",
    "llama, lora fp8, true, bfloat16, 1, false",
    "llama_bf16, lora int8, false, float32, 1, false",
    "neox_polyglot, lora fp8, true, float32, 1, false",
    "neox_sequential, lora int8, true, bfloat16, 1, false",
    "llama, lora int8 outliers, true, bfloat16, 2, false",
    "neox_polyglot, lora int8 outliers, false, bfloat16, 1, false",
    "llama, qlora / dora, true, bfloat16, 2, false",
    "neox_polyglot, lora int8 / dora, false, float32, 1, false",
    "llama, lora / modules, true, bfloat16, 1, false",
    "neox_polyglot, qlora / bias, true, bfloat16, 1, false",
    "llama3_tied, qlora / modules, true, float32, 1, true",
    "llama, lora / pissa, true, float32, 1, false",
    "mistral, qlora, true, bfloat16, 2, false",
    "qwen2, full, true, float32, 1, false",
    "qwen3, qlora, false, bfloat16, 1, false",
    "qwen3, full, true, bfloat16, 1, false",
    "phi3, qlora, true, bfloat16, 2, true",
    "phi3, full, false, float32, 1, false",
    "gemma2, qlora, true, bfloat16, 2, false",
    "gemma2, full, false, float32, 1, false",
    "gemma3, qlora, true, bfloat16, 1, false",
    "gemma3, full, true, float32, 2, false",
  })
  void everyCountedPartIsExact(
      String name,
      String method,
      boolean checkpointing,
      String compute,
      int batch,
      boolean offloading)
      throws IOException {
    countedPartsAreExact(
        name, method, checkpointing, compute, batch, "activation_offloading: " + offloading, 0);
  }

  /** The fixtures' models have two layers, of which the first keeps. */
  @ParameterizedTest
  @CsvSource({
    // Attention's output and log-sum-exp: 64 elements and four heads.
    "llama, qlora, bfloat16, 2, '[attention]', false, 144",
    "neox_polyglot, full, float32, 1, '[attention]', false, 272",
    // Gate and up, or up alone, of 128 features.
    "llama_bf16, lora, bfloat16, 1, '[mlp]', false, 512",
    "neox_sequential, qlora, bfloat16, 2, '[mlp]', false, 256",
    // q of 64 features, k and v of 32 each; 3 * 64.
    "llama, full, float32, 1, '[qkv, attention]', false, 784",
    "neox_polyglot, qlora, bfloat16, 2, '[qkv]', false, 384",
    // Between attention and feed-forward: nothing with a parallel residual.
    "llama, lora int8 outliers, bfloat16, 2, '[residual, mlp]', false, 640",
    "neox_polyglot, lora, bfloat16, 1, '[residual]', false, 0",
    // The only page that leaves memory is resident.
    "llama, qlora, bfloat16, 2, '[attention, mlp, qkv, residual]', true, 1040",
    "neox_sequential, full, float32, 1, '[attention, mlp]', true, 784",
  })
  void whatIsKeptBesidesIsExact(
      String name,
      String method,
      String compute,
      int batch,
      String save,
      boolean offloading,
      long bytesPerToken)
      throws IOException {
    countedPartsAreExact(
        name,
        method,
        true,
        compute,
        batch,
        "checkpoint_save: %s%nactivation_offloading: %s".formatted(save, offloading),
        bytesPerToken);
  }

  private void countedPartsAreExact(
      String name,
      String method,
      boolean checkpointing,
      String compute,
      int batch,
      String more,
      long keptBytesPerToken)
      throws IOException {
    Path shape = FixtureFiles.reference("models/" + name);
    Path tokens = FixtureFiles.data("tinystories-656k-llama-hf");
    Path model = folder.resolve("model");
    assertDone(
        run(
            "make-model",
            "--config",
            wideVocabulary(shape.resolve("config.json")),
            "--tokenizer",
            tokens,
            model));
    Path config =
        config(
            model,
            ("%sgradient_checkpointing: %s%ncompute: %s%nper_device_train_batch_size: %d%n"
                    + "%s%n")
                .formatted(method(method), checkpointing, compute, batch, more));
    Path json = folder.resolve("train.json");
    String out = assertDone(run("train", config, "--json", json)).out();
    assertTrue(out.contains("planned") && out.contains("peak memory"), out);
    ObjectNode figures = Json.readObject(json, 1 << 20);
    JsonNode used = figures.get("memory_bytes");
    JsonNode planned = figures.get("planned_bytes");
    assertEquals(
        used.get("weights").longValue(),
        sum(planned, "linear_weights", "absmax", "other_weights"),
        "weights");
    for (String part : List.of("adapters", "gradients", "optimizer_states")) {
      assertEquals(used.get(part).longValue(), planned.get(part).longValue(), part);
    }
    long rows = 48L * batch;
    assertEquals(rows * keptBytesPerToken, planned.get("kept_tensors").longValue());
    long attention = attentionBytes(model, compute, rows, checkpointing);
    assertEquals(
        used.get("activations").longValue(),
        sum(planned, "layer_inputs", "kept_tensors", "layers", "loss") + attention,
        "activations");
    long attentionWorkspace = planned.get("attention").longValue() - attention;
    assertTrue(attentionWorkspace >= 0, planned.toString());
    assertTrue(
        used.get("workspace").longValue()
            >= planned.get("workspace").longValue() + attentionWorkspace,
        "loading may need a larger workspace than training");

    List<String> lines = Files.readAllLines(folder.resolve("out/metrics.jsonl"));
    ObjectNode last = Json.object(lines.get(lines.size() - 1), "metrics.jsonl");
    assertEquals(used, last.get("memory_bytes"));
    assertEquals(planned, last.get("planned_bytes"));
    assertTrue(last.get("peak_bytes").longValue() > 0);
  }

  /** Output and log-sum-exp of the layers that save everything: the last, or all. */
  private static long attentionBytes(
      Path model, String compute, long tokens, boolean checkpointing) {
    ModelConfig config = ModelConfig.read(model);
    int element = compute.equals("float32") ? 4 : 2;
    long layer = tokens * config.heads() * config.headDim() * element;
    try (KernelPack pack = KernelPack.openAutomatic()) {
      if (config.attentionSoftcap() == 0 && pack.supports("attention_backward")) {
        layer += tokens * config.heads() * Float.BYTES;
      }
    }
    return checkpointing ? layer : config.layers() * layer;
  }

  /** fp16 is a type to store in: matrices stay in it with f32 compute, biases cannot. */
  @Test
  void aBaseStoredInFp16IsTrainedInFp32() throws IOException {
    Path shape = FixtureFiles.reference("models/neox_polyglot");
    Path model = folder.resolve("model");
    assertDone(
        run(
            "make-model",
            "--config",
            wideVocabulary(shape.resolve("config.json")),
            "--dtype",
            "f16",
            "--tokenizer",
            FixtureFiles.data("tinystories-656k-llama-hf"),
            model));
    Path config = config(model, "method: lora\ncompute: float32\n");
    Path json = folder.resolve("train.json");
    assertDone(run("train", config, "--json", json));
    long weights = Json.readObject(json, 1 << 20).at("/memory_bytes/weights").longValue();
    assertDone(run("train", config, "--json", json, "--set", "compute=bfloat16"));
    long bf16 = Json.readObject(json, 1 << 20).at("/memory_bytes/weights").longValue();
    assertEquals(1, (double) weights / bf16, 0.02, "matrices take two bytes an element");
  }

  /** "lora int8 outliers" as a configuration says it; after a slash, of the adapter. */
  private static String method(String words) {
    String[] both = words.split(" / ", -1);
    String[] parts = both[0].split(" ", -1);
    String adapter =
        switch (both.length > 1 ? both[1] : "") {
          case "dora" -> "use_dora: true%nlora_dropout: 0.1%n";
          case "modules" ->
              "modules_to_save: [embed_tokens, lm_head, norm]%nlora_r: 8%nuse_rslora: true%n";
          case "bias" -> "bias: all%nuse_dora: true%n";
          case "pissa" -> "init_lora_weights: pissa_niter_2%nlora_r: 8%n";
          default -> "";
        };
    return adapter.formatted()
        + "method: %s%n".formatted(parts[0])
        + (parts.length > 1 ? "quantization: %s%n".formatted(parts[1]) : "")
        // So low that many columns are outliers.
        + (parts.length > 2 ? "llm_int8_threshold: 1.5%n".formatted() : "");
  }

  private static long sum(JsonNode parts, String... names) {
    long sum = 0;
    for (String name : names) {
      sum += parts.get(name).longValue();
    }
    return sum;
  }

  /** The tokenizer at hand has 2048 tokens, the fixtures' models fewer. */
  private Path wideVocabulary(Path config) throws IOException {
    return Files.writeString(
        folder.resolve("wide.json"),
        Files.readString(config).replaceAll("\"vocab_size\": \\d+", "\"vocab_size\": 2048"));
  }

  @Test
  void whatDoesNotFitIsRefused() throws IOException {
    Path config = config(FixtureFiles.data("tinystories-656k-llama-hf"), "memory_limit: 1MB\n");
    assertFixable(run("train", config), "does not fit", "memory_limit", "ignore_memory_plan: true");
    assertFalse(Files.exists(folder.resolve("out/adapter")));
    assertFixable(run("train", config, "--set", "auto_micro_batch=true"), "does not fit");
    assertDone(run("train", config, "--set", "ignore_memory_plan=true"));
    assertFixable(run("train", config, "--set", "memory_limit=much"), "memory_limit", "much");
  }

  /** Large activations beside small weights, so that the micro-batch decides what fits. */
  private Path longText(int sentences, String settings) throws IOException {
    Path text = folder.resolve("long.txt");
    Files.writeString(text, "Once upon a time there was a red dog. ".repeat(sentences));
    return Files.writeString(
        folder.resolve("c.yaml"),
        """
        model: %s
        train_file: %s
        output_dir: %s
        sequence_length: 512
        gradient_checkpointing: false
        auto_micro_batch: true
        %s"""
            .formatted(
                FixtureFiles.data("tinystories-656k-llama-hf"),
                text,
                folder.resolve("out"),
                settings));
  }

  @Test
  void smallerMicroBatchesAreTakenUntilTheyFit() throws IOException, InterruptedException {
    // In processes of their own: the plan counts what the process holds already, and this one's
    // memory shrinks and grows with the tests before.
    Path config = longText(4000, "max_steps: 1\nper_device_train_batch_size: 64\n");
    Path json = folder.resolve("train.json");
    assertDone(runAlone(folder, "plan", config, "--json", json));
    ObjectNode plan = Json.readObject(json, 1 << 20);
    JsonNode parts = plan.get("methods").get("qlora").get("bytes");
    long activations = sum(parts, "layer_inputs", "layers", "attention", "loss");
    assertTrue(activations > 200L << 20, "activations of " + activations);
    long limit = plan.get("methods").get("qlora").get("total_bytes").longValue() - activations / 2;
    Ran ran =
        assertDone(
            runAlone(folder, "train", config, "--set", "memory_limit=" + limit, "--json", json));
    assertTrue(ran.err().contains("auto_micro_batch: "), ran.err());
    ObjectNode figures = Json.readObject(json, 1 << 20);
    long used = figures.get("memory_bytes").get("activations").longValue();
    assertTrue(used < activations * 0.7, used + " of " + activations);
  }

  /** What fits may change from one day to the next; a run's micro-batch may not. */
  @Test
  void aResumedRunKeepsItsMicroBatch() throws IOException, InterruptedException {
    Path config = longText(2000, "max_steps: 2\nsave_steps: 1\nper_device_train_batch_size: 32\n");
    Path json = folder.resolve("train.json");
    assertDone(runAlone(folder, "plan", config, "--json", json));
    JsonNode plan = Json.readObject(json, 1 << 20).get("methods").get("qlora");
    long activations = sum(plan.get("bytes"), "layer_inputs", "layers", "attention", "loss");
    long limit = plan.get("total_bytes").longValue() - activations / 3;
    Ran begun = assertDone(runAlone(folder, "train", config, "--set", "memory_limit=" + limit));
    Matcher chosen = Pattern.compile("auto_micro_batch: (\\d+) sequences").matcher(begun.err());
    assertTrue(chosen.find(), begun.err());
    int size = Integer.parseInt(chosen.group(1));
    assertTrue(size < 32, begun.err());

    // The result of the second step is there; it is made again from the checkpoint of the first.
    Path adapter = folder.resolve("out/adapter/adapter_model.safetensors");
    byte[] expected = Files.readAllBytes(adapter);
    Files.delete(adapter);
    Ran on = assertDone(run("train", config, "--resume", "--set", "memory_limit=1TB"));
    assertTrue(on.err().contains("resumed after step 1 of 2"), on.err());
    assertTrue(
        on.err()
            .contains(
                size + " sequences, " + 32 / size + " micro-batches a step, as the run began"),
        on.err());
    assertArrayEquals(expected, Files.readAllBytes(adapter));

    assertFixable(
        run("train", config, "--resume", "--set", "memory_limit=1MB"),
        "does not fit",
        "a resumed run keeps its micro-batch of " + size + " sequences",
        "gradient_checkpointing: true");
    assertFixable(
        run("train", config, "--resume", "--set", "per_device_train_batch_size=24"),
        "cannot resume",
        "per_device_train_batch_size: saved " + size + ", now 24");
    // Of a micro-batch that the run never had, it matters little whether it would fit.
    for (String auto : List.of("true", "false")) {
      Ran other =
          run(
              "train",
              config,
              "--resume",
              "--set",
              "per_device_train_batch_size=24",
              "--set",
              "auto_micro_batch=" + auto,
              "--set",
              "memory_limit=1MB");
      assertFixable(
          other,
          "cannot resume",
          "checkpoint-1, the run has changed",
          "gradient_accumulation_steps: saved " + 32 / size + ", now 1",
          "per_device_train_batch_size: saved " + size + ", now 24");
      assertFalse(other.err().contains("planned"), other.err());
    }
  }

  /**
   * A sequence among short ones: capped attention holds three matrices of its scores, 4 heads x 400
   * x 400 in f32, where four sequences of the mean length would have less than a sixth of that.
   */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void oneLongSequenceAmongShortOnesIsPlanned(boolean packing) throws IOException {
    Path tokens = FixtureFiles.data("tinystories-656k-llama-hf");
    String story = "a red dog sat down";
    int shortTokens;
    try (Tokenizer tokenizer = Tokenizer.load(tokens)) {
      shortTokens = tokenizer.encode(story).length;
    }
    // So that the four have a whole mean.
    int longTokens = 400 + 4 - 3 * shortTokens % 4;
    Path model = folder.resolve("model");
    String shape =
        Files.readString(FixtureFiles.reference("models/gemma2").resolve("config.json"))
            .replaceAll("\"vocab_size\": \\d+", "\"vocab_size\": 2048")
            .replaceAll("\"max_position_embeddings\": \\d+", "\"max_position_embeddings\": 512");
    assertDone(
        run(
            "make-model",
            "--config",
            Files.writeString(folder.resolve("shape.json"), shape),
            "--tokenizer",
            tokens,
            model));
    String line = "{\"text\": \"%s\"}%n";
    Path examples =
        Files.writeString(
            folder.resolve("unequal.jsonl"),
            line.formatted(story).repeat(3) + line.formatted((story + " ").repeat(400)));
    Path config =
        Files.writeString(
            folder.resolve("c.yaml"),
            """
            model: %s
            train_file: %s
            output_dir: %s
            sequence_length: %d
            add_eos: false
            max_steps: 1
            per_device_train_batch_size: 4
            packing: %s
            """
                .formatted(model, examples, folder.resolve("out"), longTokens, packing));
    Path json = folder.resolve("train.json");
    Ran ran = assertDone(run("train", config, "--json", json));
    assertTrue(ran.err().contains("4 examples, " + (longTokens + 3 * shortTokens)), ran.err());
    ObjectNode figures = Json.readObject(json, 1 << 20);
    JsonNode planned = figures.get("planned_bytes");
    long attention = attentionBytes(model, "bfloat16", longTokens + 3 * shortTokens, true);
    long activations = sum(planned, "layer_inputs", "kept_tensors", "layers", "loss") + attention;
    assertTrue(activations > 3L * 4 * 400 * 400 * Float.BYTES, planned.toString());
    assertEquals(figures.get("memory_bytes").get("activations").longValue(), activations);
  }

  /** What a method has no use for is left out of its column, and said. */
  @Test
  void otherMethodsArePlannedWithoutWhatDoesNotApply() throws IOException {
    Path model = FixtureFiles.project("examples/model");
    Path config =
        config(
            model,
            "method: qlora\nquantization: nf4\ninit_lora_weights: loftq\nlora_r: 4\n"
                + "loraplus_lr_ratio: 4\n");
    Path json = folder.resolve("plan.json");
    assertDone(run("plan", config, "--json", json));
    ObjectNode all = Json.readObject(json, 1 << 20);
    JsonNode own = all.get("methods");
    assertEquals("qlora", all.get("method").textValue());
    assertEquals("[]", own.get("qlora").get("left_out").toString());
    for (String method : List.of("full", "lora", "qlora")) {
      String out = assertDone(run("plan", config, "--method", method, "--json", json)).out();
      ObjectNode figures = Json.readObject(json, 1 << 20);
      assertEquals(method, figures.get("method").textValue());
      assertTrue(out.contains(method + "*") && out.contains("rank 4"), out);
      assertTrue(
          out.contains(
              "Planned without init_lora_weights: loftq, which does not apply: full, lora."),
          out);
      assertTrue(
          out.contains("Planned without loraplus_lr_ratio: 4, which does not apply: full."), out);
      // Whichever is asked for, every column is the same.
      for (String each : List.of("full", "lora", "qlora")) {
        for (String part : List.of("adapters", "gradients", "linear_weights", "extra")) {
          assertEquals(
              own.get(each).get("bytes").get(part),
              figures.get("methods").get(each).get("bytes").get(part),
              each + " " + part);
        }
      }
    }
    // The factors of a decomposition are not counted where none is made.
    long plain = own.get("lora").get("bytes").get("extra").longValue();
    assertDone(
        run("plan", config, "--method", "lora", "--set", "init_lora_weights=true", "--json", json));
    assertEquals(plain, Json.readObject(json, 1 << 20).at("/methods/lora/bytes/extra").longValue());
    // What is asked for beside the method is not left out.
    assertFixable(
        run("plan", config, "--method", "lora", "--set", "init_lora_weights=loftq"),
        "init_lora_weights",
        "loftq");

    assertDone(run("train", config, "--set", "init_lora_weights=true", "--set", "max_steps=1"));
    Path adapter = folder.resolve("out/adapter");
    Path next =
        Files.writeString(
            folder.resolve("next.yaml"),
            "model: %s%ntrain_file: %s%noutput_dir: %s%ninit_adapter: %s%n"
                .formatted(model, folder.resolve("t.txt"), folder.resolve("next"), adapter));
    String out = assertDone(run("plan", next, "--method", "full", "--json", json)).out();
    assertTrue(
        out.contains("Planned without init_adapter: " + adapter + ", which does not apply: full."),
        out);
    assertTrue(out.contains("rank 4"), out);
    JsonNode methods = Json.readObject(json, 1 << 20).get("methods");
    assertEquals("[\"init_adapter: " + adapter + "\"]", methods.at("/full/left_out").toString());
    assertEquals(
        own.at("/lora/bytes/adapters"),
        methods.at("/lora/bytes/adapters"),
        "that of the adapter's rank");
  }

  @Test
  void planNeedsOnlyAConfig() throws IOException {
    Path config = FixtureFiles.reference("models/llama").resolve("config.json");
    Path json = folder.resolve("plan.json");
    String out =
        assertDone(
                run(
                    "plan",
                    "--model",
                    config,
                    "--method",
                    "lora",
                    "--sequence",
                    64,
                    "--batch",
                    3,
                    "--rank",
                    4,
                    "--memory",
                    "8GB",
                    "--json",
                    json))
            .out();
    for (String part :
        List.of("3 x 64 tokens", "rank 4", "lora*", "qlora", "full", "fits", "largest batch")) {
      assertTrue(out.contains(part), out);
    }
    ObjectNode figures = Json.readObject(json, 1 << 20);
    for (String method : List.of("full", "lora", "qlora")) {
      JsonNode one = figures.get("methods").get(method);
      long sum = 0;
      for (JsonNode part : one.get("bytes")) {
        assertTrue(part.longValue() >= 0, out);
        sum += part.longValue();
      }
      assertEquals(sum, one.get("total_bytes").longValue());
      assertTrue(one.get("fits").booleanValue(), out);
      assertTrue(one.get("largest_batch").intValue() >= 3, out);
      Matcher bar = Pattern.compile("(?m)^" + method + " +([WAGOSJ]+) ").matcher(out);
      assertTrue(bar.find(), out);
      int letters = bar.group(1).length();
      assertTrue(letters <= 100 && (letters > 49 || !method.equals("full")), out);
    }
    String eightBit =
        assertDone(
                run(
                    "plan",
                    "--model",
                    config,
                    "--set",
                    "quantization=int8",
                    "--memory",
                    "8GB",
                    "--json",
                    json))
            .out();
    assertTrue(eightBit.contains("lora int8*"), eightBit);
    JsonNode both = Json.readObject(json, 1 << 20).get("methods");
    assertTrue(
        both.get("lora int8").get("bytes").get("linear_weights").longValue()
            < both.get("lora").get("bytes").get("linear_weights").longValue(),
        eightBit);
    String small = assertDone(run("plan", "--model", config, "--memory", "1MB")).out();
    assertTrue(small.contains("none"), small);
    assertFixable(run("plan"), "CONFIG.yaml or --model");
    assertFixable(run("plan", "--model", config, "--memory", "much"), "--memory", "much");
    assertFixable(run("plan", "--model", config, "--method", "half"), "method", "half");
    assertFixable(run("plan", "--model", folder.resolve("none")), "no such model directory");
  }

  @Test
  void sizes() {
    assertEquals(24_000_000_000L, ByteSize.parse("m", "24GB"));
    assertEquals(3L << 29, ByteSize.parse("m", "1.5 GiB"));
    assertEquals(65536, ByteSize.parse("m", "65536"));
    for (String wrong : List.of("", "GB", "-1GB", "1XB", "0", "1e5")) {
      InputException e =
          assertThrows(InputException.class, () -> ByteSize.parse("--memory", wrong));
      assertTrue(String.valueOf(e.getMessage()).startsWith("--memory: expected a size"));
    }
  }

  @Test
  void memoryOfTheMachineAndItsControlGroup() throws IOException {
    Path root = folder.resolve("root");
    Files.createDirectories(root.resolve("proc/self"));
    Files.writeString(root.resolve("proc/meminfo"), "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n");
    assertEquals(new MachineMemory(8001 * 1024, "the machine"), MachineMemory.read(root, 1024));
    // A limit above the process's own group counts too; other processes' memory is gone.
    Files.writeString(root.resolve("proc/self/cgroup"), "0::/a/b\n");
    Path group = Files.createDirectories(root.resolve("sys/fs/cgroup/a/b"));
    Files.writeString(group.resolve("memory.max"), "max\n");
    Files.writeString(root.resolve("sys/fs/cgroup/a/memory.max"), "1000000\n");
    Files.writeString(root.resolve("sys/fs/cgroup/a/memory.stat"), "anon 301024\nfile 900000\n");
    assertEquals(new MachineMemory(700000, "the control group"), MachineMemory.read(root, 1024));
    assertEquals(Long.MAX_VALUE, MachineMemory.read(folder.resolve("empty"), 0).bytes());
  }
}
