// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.PeftAdapterConfig;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.TrainedBase;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.SmallModel;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;

/**
 * Whole runs with adapters beyond plain LoRA: they learn, resume bit for bit, and what they write
 * is what was trained.
 */
class AdapterTrainingTest {
  private final Path folder;

  AdapterTrainingTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private TrainConfig config(String output, String... more) {
    List<String> settings = new ArrayList<>(List.of(more));
    settings.add("output_dir=" + folder.resolve(output));
    return TrainConfigReader.parse(
        """
        model: %s
        train_file: %s
        val_set_size: 8
        sequence_length: 32
        lr_scheduler_type: constant
        per_device_train_batch_size: 4
        learning_rate: 1e-3
        max_steps: 6
        """
            .formatted(
                FixtureFiles.project("examples/model"),
                FixtureFiles.project("examples/data/blog-reviews.jsonl")),
        "test",
        settings);
  }

  private TrainingSummary train(String output, String... more) {
    return TrainingRun.run(config(output, more), false, Progress.none());
  }

  private static byte[] adapter(Path output) throws IOException {
    return Files.readAllBytes(output.resolve("adapter").resolve(PeftAdapterFile.WEIGHTS_FILE));
  }

  private static final String EVERYTHING =
      "use_dora=true\nbias=all\nmodules_to_save=[embed_tokens, lm_head, model.norm]\n"
          + "rank_pattern={q_proj: 4}\nlora_dropout=0.1\nloraplus_lr_ratio=2\nloraplus_lr_embedding=5e-5\nlearning_rate=1e-4";

  @ParameterizedTest
  @ValueSource(
      strings = {
        EVERYTHING,
        "method=lora\ninit_lora_weights=pissa_niter_4\nlora_r=8",
        "init_lora_weights=gaussian\noptim=paged_adamw_8bit\nloraplus_lr_ratio=2",
      })
  void learnsAndResumesBitForBit(String settings) throws IOException {
    List<String> more = new ArrayList<>(List.of(settings.split("\n", -1)));
    TrainingSummary run = train("run", more.toArray(new String[0]));
    assertTrue(run.finalEvalLoss() < run.initialEvalLoss(), run::toString);
    more.add("save_steps=4");
    TrainConfig interrupted = config("interrupted", more.toArray(new String[0]));
    TrainingRun.run(interrupted, false, Progress.none());
    Path result = folder.resolve("interrupted/adapter");
    Files.delete(result.resolve(PeftAdapterFile.WEIGHTS_FILE));
    TrainingRun.run(interrupted, true, Progress.none());
    assertArrayEquals(
        adapter(folder.resolve("run")),
        adapter(folder.resolve("interrupted")),
        "resumed after step 4");
  }

  /**
   * A PiSSA begins as the base, and its result on the original base is what was trained. The base
   * is stored in bf16, and so is what it keeps: its weights are off by up to 2^-9 of themselves, at
   * random, which changes a mean loss of hundreds of tokens by less than 2e-3.
   */
  @ParameterizedTest
  @ValueSource(strings = {"pissa", "pissa_niter_4", "pissa_niter_2\nuse_rslora=true"})
  void aPissaFitsTheOriginalBase(String init) {
    List<String> more =
        new ArrayList<>(List.of("method=lora", "compute=float32", "lora_r=8", "lora_alpha=24"));
    TrainingSummary plain = train("plain", more.toArray(new String[0]));
    more.addAll(List.of(("init_lora_weights=" + init).split("\n", -1)));
    TrainingSummary run = train("pissa", more.toArray(new String[0]));
    assertEquals(plain.initialEvalLoss(), run.initialEvalLoss(), 2e-3);
    assertTrue(run.finalEvalLoss() < run.initialEvalLoss() - 0.02, run::toString);
    PeftAdapterConfig written = PeftAdapterConfig.readFrom(run.output());
    assertEquals(16, written.rank());
    assertEquals(LoraInit.DEFAULT, written.lora().init());
    assertEquals(
        more.contains("use_rslora=true") ? 24 / Math.sqrt(8) : 3.0, written.lora().scaling(), 1e-6);
    TrainingSummary on =
        train(
            "on",
            "method=lora",
            "compute=float32",
            "learning_rate=0",
            "max_steps=1",
            "init_adapter=" + run.output());
    assertEquals(run.finalEvalLoss(), on.initialEvalLoss(), 2e-3);
  }

  /**
   * What merge takes: the quantized base a LoRA was trained on, and the original one for a PiSSA.
   */
  @Test
  void theResultSaysWhichBaseItFits() {
    Path lora = train("lora", "max_steps=2", "save_steps=1").output();
    TrainedBase nf4 = new TrainedBase(QuantizationConfig.nf4());
    assertEquals(nf4, TrainedBase.read(lora));
    assertEquals(nf4, TrainedBase.read(folder.resolve("lora/checkpoints/checkpoint-1")));
    Path pissa = train("pissa", "max_steps=1", "init_lora_weights=pissa_niter_2").output();
    assertEquals(new TrainedBase(null), TrainedBase.read(pissa));
  }

  /** What 4 bits lose costs held-out loss; LoftQ wins some of it back before any step. */
  @Test
  void aLoftqBeginsCloserToTheBase() {
    String[] settings = {"compute=float32", "lora_r=32", "lora_alpha=16", "max_steps=1"};
    double dense = train("dense", with(settings, "method=lora")).initialEvalLoss();
    double plain = train("plain", settings).initialEvalLoss();
    double loftq = train("loftq", with(settings, "init_lora_weights=loftq")).initialEvalLoss();
    assertTrue(
        Math.abs(loftq - dense) < 0.8 * Math.abs(plain - dense),
        dense + " dense, " + plain + " in 4 bits, " + loftq + " with LoftQ");
  }

  private static String[] with(String[] settings, String more) {
    List<String> all = new ArrayList<>(List.of(settings));
    all.add(more);
    return all.toArray(new String[0]);
  }

  @Test
  void goesOnFromAnAdapter() throws IOException {
    TrainingSummary first = train("first", EVERYTHING.split("\n", -1));
    TrainingSummary second =
        train(
            "second",
            "init_adapter=" + first.output(),
            "learning_rate=1e-4",
            "lora_dropout=0",
            "save_steps=3");
    assertEquals(first.finalEvalLoss(), second.initialEvalLoss(), "begins where the other ended");
    assertTrue(second.finalEvalLoss() < second.initialEvalLoss(), second::toString);
    assertEquals(
        PeftAdapterConfig.readFrom(first.output()).lora().withDropout(0),
        PeftAdapterConfig.readFrom(second.output()).lora());
    assertFalse(
        java.util.Arrays.equals(
            adapter(folder.resolve("first")), adapter(folder.resolve("second"))));

    TrainingSummary other = train("other", "lora_r=4");
    assertRefused(
        () ->
            TrainingRun.run(
                config(
                    "second",
                    "init_adapter=" + other.output(),
                    "learning_rate=1e-4",
                    "lora_dropout=0",
                    "save_steps=3"),
                true,
                Progress.none()),
        "init_adapter",
        "cannot resume");
    assertRefused(
        () -> config("x", "init_adapter=" + first.output(), "lora_r=8"), "lora_r", "init_adapter");
    assertRefused(() -> config("x", "init_adapter=" + folder), "adapter_config.json");
    assertRefused(
        () -> train("first", "init_adapter=" + first.output()), "output_dir", "init_adapter");
    assertRefused(
        () -> config("x", "init_adapter=" + first.output(), "method=full"), "init_adapter");
  }

  /**
   * The first step of Adam moves every element with a gradient by its rate, but for epsilon: b by
   * ratio times learning_rate.
   */
  @Test
  void loraPlusMovesBFaster() {
    train("run", "loraplus_lr_ratio=16", "max_steps=1", "adam_epsilon=1e-20", "compute=float32");
    try (SafetensorsFile file =
        SafetensorsFile.open(folder.resolve("run/adapter").resolve(PeftAdapterFile.WEIGHTS_FILE))) {
      int seen = 0;
      for (String name : file.names()) {
        if (name.endsWith("lora_B.weight")) {
          for (float value : file.tensor(name).toFloats()) {
            if (Math.abs(value) > 0) {
              seen++;
              assertEquals(16e-3, Math.abs(value), 16e-6, name);
            }
          }
        }
      }
      assertTrue(seen > 1000, seen + " elements moved");
    }
  }

  @Test
  void refusesWhatDoesNotGoTogether() {
    assertRefused(
        () -> config("x", "init_lora_weights=pissa", "use_dora=true"), "init_lora_weights");
    assertRefused(() -> config("x", "init_lora_weights=loftq", "method=lora"), "init_lora_weights");
    assertRefused(() -> config("x", "init_lora_weights=olora"), "init_lora_weights", "'olora'");
    assertRefused(() -> config("x", "rank_pattern={q_proj: 1.5}"), "rank_pattern");
    assertRefused(() -> config("x", "alpha_pattern=[1]"), "alpha_pattern");
    assertRefused(() -> config("x", "layers_to_transform=first"), "layers_to_transform");
    assertRefused(() -> config("x", "lora_target_modules=(q|v"), "target_modules", "'(q|v'");
    assertRefused(
        () -> train("x", "modules_to_save=[lm_heat]"), "modules_to_save", "did you mean lm_head?");
    assertRefused(
        () -> train("x", "init_lora_weights=pissa", "lora_r=300"), "lora_r", "pissa", "300");
    assertRefused(() -> train("x", "modules_to_save=[q_proj]"), "modules_to_save", "not quantized");
  }

  /** Rates that nothing would be trained at. */
  @Test
  void refusesRatesOfWhatIsNotTrained() {
    assertRefused(
        () -> config("x", "method=full", "loraplus_ratio=16"), "loraplus_ratio", "method: full");
    assertRefused(
        () -> config("x", "method=full", "loraplus_lr_embedding=1e-5"),
        "loraplus_lr_embedding",
        "method: full");
    config("x", "method=full", "loraplus_lr_ratio=1");
    for (String saved : List.of("[]", "[lm_head, norm]")) {
      assertRefused(
          () -> train("x", "loraplus_lr_embedding=1e-5", "modules_to_save=" + saved),
          "loraplus_lr_embedding",
          "modules_to_save has embed_tokens");
    }
    String adapter = "init_adapter=" + train("first", "max_steps=1").output();
    assertRefused(() -> train("x", "loraplus_lr_embedding=1e-5", adapter), "modules_to_save");
    assertFalse(Files.exists(folder.resolve("x")), "refused before anything was made");
  }

  /** The same adapters can be trained on as can be used: the tensors say what is adapted. */
  @Test
  void anAdapterThatGenerateTakesCanBeTrainedOn() throws IOException {
    TrainingSummary first =
        train("first", "lora_target_modules=[q_proj, v_proj]", "max_steps=1", "lora_r=4");
    Path file = first.output().resolve("adapter_config.json");
    String written = Files.readString(file);
    String more = written.replaceAll("\"q_proj\",", "\"q_proj\", \"query_key_value\",");
    assertFalse(more.equals(written), written);
    Files.writeString(file, more);
    assertDone(
        run("generate", "--adapter", first.output(), "--prompt", "a", "--max-new-tokens", 1));
    TrainingSummary second = train("second", "init_adapter=" + first.output(), "max_steps=1");
    assertEquals(first.finalEvalLoss(), second.initialEvalLoss(), "begins where the other ended");

    Path other = folder.resolve("other");
    SmallModel.write(other, SmallModel.llama(300, 64, 2, 4, 2, 128), 1);
    String message =
        assertThrows(
                InputException.class, () -> LoraAdapter.checkFits(first.output(), names(other)))
            .getMessage();
    assertTrue(String.valueOf(message).contains("trained on another base?"), message);
    assertFixable(
        run("plan", "--model", other, "--set", "init_adapter=" + first.output()),
        "trained on another base?");
  }

  private static WeightNames names(Path model) {
    return WeightNames.of(ModelConfig.read(model));
  }
}
