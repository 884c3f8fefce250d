// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.Charset;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.common.Json;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.SmallModel;

/** The command line: output, exit codes, and one line for every mistake a user can make. */
class MainTest {
  private final Path folder;

  MainTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @ParameterizedTest
  @ValueSource(strings = {"train", "generate", "quantize", "info", "make-model", "plan"})
  void everyCommandExplainsItself(String command) {
    String help = assertDone(run(command, "--help")).out();
    assertTrue(help.contains("Usage: qlora4j " + command), help);
    assertTrue(help.contains("--json"), help);
    // Every option has a description behind it.
    List<String> lines = help.lines().toList();
    for (int i = 0; i < lines.size(); i++) {
      String line = lines.get(i).stripTrailing();
      if (line.matches("\\s+(-\\w, )?--[a-z-]+(=\\S+)?") && i + 1 < lines.size()) {
        assertTrue(lines.get(i + 1).startsWith("           "), "no description: " + line);
      }
    }
    assertTrue(run("--help").out().contains("  " + command), "listed in the general help");
  }

  /** A command says in its help what an interrupted run leaves, and only where it goes on. */
  @ParameterizedTest
  @CsvSource({"quantize, true", "merge, true", "make-model, false"})
  void helpSaysWhetherFinishedFilesAreKept(String command, boolean kept) {
    String help = assertDone(run(command, "--help")).out().replaceAll("\\s+", " ");
    assertTrue(help.contains("Most bytes of a file (default: 5GB)"), help);
    assertEquals(kept, help.contains("finished files survive an interruption"), help);
  }

  @Test
  void helpAndVersion() {
    assertEquals(run("--help").out(), assertDone(run()).out(), "without a command, the help");
    assertTrue(assertDone(run("--version")).out().startsWith("qlora4j "));
    String keys = assertDone(run("train", "--help-keys")).out();
    assertTrue(keys.contains("lora_r: 16") && keys.contains("also: r, lora_rank"), keys);
  }

  @Test
  void wrongArgumentsAreOneLine() {
    assertFixable(run("trian"), "trian");
    assertFixable(run("train", "--sett", "a=b"), "--sett");
    assertFixable(run("train"), "expected a configuration");
    assertFixable(run("info"), "MODEL_DIR");
    assertFixable(run("info", folder, "--rank", "many"), "--rank", "many");
    assertFixable(run("info", folder, "--rank", "0"), "--rank");
    assertFixable(run("generate", folder), "--prompt");
    assertFixable(run("generate", folder, "--prompt", "a", "--message", "b"), "--message");
    assertFixable(run("generate", folder, "--prompt", "a", "--top-p", "2"), "top_p", "2.0");
    assertFixable(run("generate", "--prompt", "a"), "MODEL_DIR or --adapter");
    assertFixable(run("generate", folder, "--prompt", "a", "--quantize", "int3"), "int3");
    assertFixable(run("quantize", folder, folder), "another directory");
    assertFixable(run("quantize", folder, "out", "--blocksize", "48"), "48");
  }

  @Test
  void infoShowsWhatEachMethodNeeds() throws IOException {
    Path model = folder.resolve("model");
    SmallModel.write(
        model, Files.readString(FixtureFiles.shape("llama").resolve("config.json")), 1);
    Path json = folder.resolve("info.json");
    String out = assertDone(run("info", model, "--rank", 8, "--json", json)).out();
    ObjectNode figures = Json.readObject(json, 1 << 20);
    long linear = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64);
    long all = linear + 2 * 288 * 64 + 5 * 64;
    assertEquals(all, figures.get("parameters").longValue());
    assertEquals(linear, figures.get("linear_parameters").longValue());
    assertEquals(all * 2, figures.get("weight_bytes").longValue(), "stored in bf16");
    long adapter = 2 * 8 * (2 * (64 + 64) + 2 * (32 + 64) + 3 * (128 + 64));
    assertEquals(adapter, figures.get("adapter_parameters").longValue());
    var memory = figures.get("memory_bytes");
    // Besides the parameters a model has 8 frequencies of the rotary embedding.
    assertEquals(4 * all + 32, memory.get("full").get("weights").longValue());
    assertEquals(4 * all, memory.get("full").get("gradients").longValue());
    // The moments of a tensor begin at a multiple of 256 bytes.
    long moments = memory.get("full").get("optimizer_states").longValue();
    assertTrue(moments >= 8 * all && moments <= 8 * all + 2 * 21 * 256, memory.toString());
    assertEquals(2 * all + 32, memory.get("lora").get("weights").longValue());
    // Per weight: half a byte an element, a byte a block of 64, four bytes 256 blocks.
    long blocks = linear / 64;
    long quantized = linear / 2 + blocks + 2 * 7 * 4;
    long others = 2 * (all - linear) + 32;
    long qlora = memory.get("qlora").get("weights").longValue();
    // And, for each of 14 weights, at most 256 bytes to align the scales.
    assertTrue(qlora >= quantized + others && qlora <= quantized + others + 14 * 256, "" + qlora);
    assertDone(run("plan", "--model", model, "--rank", 8, "--json", json));
    var plans = Json.readObject(json, 1 << 20).get("methods");
    for (String method : new String[] {"full", "lora", "qlora"}) {
      var planned = plans.get(method).get("bytes");
      var held = memory.get(method);
      long sum = 0;
      for (String part : new String[] {"linear_weights", "absmax", "other_weights"}) {
        sum += planned.get(part).longValue();
      }
      assertEquals(sum, held.get("weights").longValue(), method);
      for (String part : new String[] {"adapters", "gradients", "optimizer_states"}) {
        assertEquals(planned.get(part), held.get(part), method);
        sum += planned.get(part).longValue();
      }
      assertEquals(sum, held.get("total").longValue(), method);
    }
    for (String part :
        new String[] {"llama", "full", "lora (16-bit base)", "qlora (nf4, double quantization)"}) {
      assertTrue(out.contains(part), out);
    }
  }

  @Test
  void infoNeedsOnlyTheConfig() throws IOException {
    Files.copy(
        FixtureFiles.data("polyglot-ko-configs/polyglot-ko-12.8b.config.json"),
        folder.resolve("config.json"));
    String out = assertDone(run("info", folder)).out();
    assertTrue(out.contains("12,893,603,840"), out);
    assertTrue(out.contains("none here"), out);
    assertFixable(
        run("info", folder, "--target-modules", "q_proj"),
        "lora_target_modules",
        "query_key_value");
  }

  /** A model directory of its own that a test may damage. */
  private Path model() throws IOException {
    Path source = FixtureFiles.data("tinystories-656k-llama-hf");
    Path copy = Files.createDirectory(folder.resolve("model"));
    try (Stream<Path> files = Files.list(source)) {
      for (Path file : files.toList()) {
        Files.copy(
            file,
            copy.resolve(String.valueOf(file.getFileName())),
            StandardCopyOption.REPLACE_EXISTING);
        copy.resolve(String.valueOf(file.getFileName())).toFile().setWritable(true);
      }
    }
    return copy;
  }

  private Path config(Path model, String more) throws IOException {
    Path examples = folder.resolve("examples.jsonl");
    Files.writeString(
        examples,
        """
        {"prompt": "Once upon a time", "completion": " there was a dog."}
        {"prompt": "Tom", "completion": " was a cat."}
        {"prompt": "Lily", "completion": " had a ball."}
        {"prompt": "Sam", "completion": " had a kite and a red car."}
        """);
    return Files.writeString(
        folder.resolve("c.yaml"),
        "model: "
            + model
            + "\ntrain_file: "
            + examples
            + "\noutput_dir: "
            + folder.resolve("out")
            + "\nval_set_size: 1\nmax_steps: 4\nlora_r: 4\nlogging_steps: 1\nsample_prompts: [Once upon a time]\n"
            + "sample_max_new_tokens: 5\n"
            + more);
  }

  @Test
  void whatUsersGetWrongIsOneLineAndExitCode2() throws IOException {
    Path model = model();
    Path config = config(model, "");
    assertFixable(run("train", folder.resolve("absent.yaml")), "no such file", "absent.yaml");
    assertFixable(run("train", config, "--set", "model=absent"), "no such model directory: absent");
    assertFixable(
        run("train", config, "--set", "train_file=absent.jsonl"), "no such file: absent.jsonl");
    assertFixable(run("train", config, "--set", "learning_rat=1"), "did you mean learning_rate?");
    assertFixable(
        run("train", config, "--set", "lora_target_modules=[query]"),
        "lora_target_modules",
        "q_proj");
    Path cp949 = folder.resolve("cp949.jsonl");
    Files.write(cp949, "{\"text\": \"좋아요\"}\n".getBytes(Charset.forName("MS949")));
    assertFixable(run("train", config, "--set", "train_file=" + cp949), cp949 + ":1", "UTF-8");
    assertFixable(run("train", config, "--pack", "nonsense"), "nonsense");
    assertFixable(
        run("train", config, "--pack", "reference", "--device", "cuda"),
        "device: cuda",
        "the pack reference computes on the device CPU, but CUDA was asked for");
    System.clearProperty("qlora4j.pack");
    assertFixable(run("train", config, "--set", "device=gpu"), "device", "auto, cpu, cuda", "gpu");
    assertFixable(run("generate", model, "--prompt", "a", "--device", "gpu"), "--device", "gpu");

    Path weights = model.resolve("model.safetensors");
    byte[] good = Files.readAllBytes(weights);
    Files.write(weights, Arrays.copyOf(good, good.length / 2));
    assertFixable(run("train", config), "model.safetensors", "truncated");
    assertFixable(run("info", model), "truncated");
    byte[] lying = good.clone();
    lying[7] = 1;
    Files.write(weights, lying);
    assertFixable(run("generate", model, "--prompt", "a"), "model.safetensors", "header");
    Files.write(weights, good);
    Path json = model.resolve("config.json");
    Files.writeString(
        json,
        Files.readString(json).replace("\"intermediate_size\": 384", "\"intermediate_size\": 380"));
    assertFixable(run("train", config), "mlp.", "380", "config.json", "384");
    assertFalse(Files.exists(folder.resolve("out/adapter")));
  }

  /** What was looked for, why it was not found, and what to do. */
  @Test
  void gpuThatIsNotThereIsOneLine() throws IOException {
    Assumptions.assumeFalse(Packs.opens("cuda"), "this machine has a GPU");
    Path config = config(FixtureFiles.data("tinystories-656k-llama-hf"), "");
    for (String[] option : new String[][] {{"--device", "cuda"}, {"--set", "device=cuda"}}) {
      assertFixable(
          run("train", config, option[0], option[1]),
          "device: cuda: cannot open a kernel pack",
          "cuda: ",
          "NVIDIA driver",
          "docs/cuda.md",
          "device: auto");
    }
    assertFalse(Files.exists(folder.resolve("out/adapter")));
    // The CPU by choice is nothing to explain; by default, it is.
    Ran chosen = assertDone(run("train", config, "--device", "cpu", "--set", "max_steps=1"));
    assertTrue(chosen.out().contains(" --device cpu "), chosen.out());
    assertFalse(chosen.err().contains("cuda"), chosen.err());
    Ran automatic = assertDone(run("train", config, "--set", "max_steps=1"));
    assertTrue(automatic.err().contains("(cuda: "), automatic.err());
  }

  @Test
  void trainGenerateQuantize() throws IOException {
    Path model = FixtureFiles.data("tinystories-656k-llama-hf");
    Path json = folder.resolve("train.json");
    String out = assertDone(run("train", config(model, "save_steps: 2\n"), "--json", json)).out();
    for (String part :
        new String[] {
          "prompt: Once upon a time",
          "before: ",
          "after: ",
          "held-out loss",
          "peak memory",
          "./qlora4j generate "
        }) {
      assertTrue(out.contains(part), out);
    }
    ObjectNode figures = Json.readObject(json, 1 << 20);
    assertEquals(4, figures.get("steps").intValue());
    assertTrue(figures.get("initial_eval_loss").doubleValue() > 0);
    assertEquals(
        4 + 2 + 1,
        Files.readAllLines(folder.resolve("out/metrics.jsonl")).size(),
        "four steps, two evaluations, the memory");
    byte[] adapter = Files.readAllBytes(folder.resolve("out/adapter/adapter_model.safetensors"));

    Ran resumed = assertDone(run("train", folder.resolve("c.yaml"), "--resume"));
    assertTrue(resumed.err().contains("resumed after step 2"), resumed.err());
    assertEquals(
        List.of(adapter.length, Arrays.hashCode(adapter)),
        List.of(
            (int) Files.size(folder.resolve("out/adapter/adapter_model.safetensors")),
            Arrays.hashCode(
                Files.readAllBytes(folder.resolve("out/adapter/adapter_model.safetensors")))));
    assertFixable(
        run("train", folder.resolve("c.yaml"), "--resume", "--set", "lora_r=8"),
        "cannot resume",
        "lora_r: saved 4, now 8");

    // On another pack a run goes on, and says what that means.
    Ran elsewhere =
        assertDone(
            run("train", folder.resolve("c.yaml"), "--resume", "--pack", "without-attention"));
    System.clearProperty("qlora4j.pack");
    assertTrue(elsewhere.err().contains("to rounding, not bit for bit"), elsewhere.err());
    assertFalse(resumed.err().contains("to rounding"), resumed.err());
    // Back to the run's own result.
    assertDone(run("train", folder.resolve("c.yaml"), "--resume"));

    Object[] generate = {
      "generate",
      model,
      "--adapter",
      folder.resolve("out/adapter"),
      "--quantize",
      "nf4",
      "--prompt",
      "Once upon a time",
      "--max-new-tokens",
      5
    };
    String text = assertDone(run(generate)).out();
    assertEquals(
        figures.get("samples").get(0).get("after").textValue().strip(),
        text.strip(),
        "what training showed");

    Path quantized = folder.resolve("nf4");
    assertTrue(assertDone(run("quantize", model, quantized)).out().contains("14 weights in NF4"));
    String same =
        assertDone(
                run(
                    "generate",
                    quantized,
                    "--adapter",
                    folder.resolve("out/adapter"),
                    "--prompt",
                    "Once upon a time",
                    "--max-new-tokens",
                    5))
            .out();
    assertEquals(text, same, "quantized before or while loading is the same");
    assertFixable(run("quantize", quantized, folder.resolve("again")), "4 bits already");
    assertFalse(Files.exists(folder.resolve("again")));
  }
}
