// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.data.SampleOrder;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.model.Regularization;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.train.MemoryBudget;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfig.Compute;
import org.qlora4j.train.TrainConfig.LoraPrecision;
import org.qlora4j.train.TrainConfig.Method;
import org.qlora4j.train.TrainConfig.Optim;
import org.qlora4j.train.TrainConfig.QuantType;
import org.qlora4j.train.TrainConfig.Scheduler;
import org.qlora4j.train.TrainConfigKeys;
import org.qlora4j.train.TrainConfigReader;

/** Training configurations: names, defaults, mistakes. */
class TrainConfigTest {
  private static final String SMALLEST = "model: base\ntrain_file: a.jsonl\noutput_dir: out\n";

  private static TrainConfig parse(String yaml, String... overrides) {
    return TrainConfigReader.parse(yaml, "c.yaml", List.of(overrides));
  }

  @Test
  void defaultsAreThoseOfTheDocumentation() {
    TrainConfig c = parse(SMALLEST);
    assertEquals(Path.of("base"), c.model());
    assertEquals(Method.QLORA, c.method());
    assertEquals(Compute.BFLOAT16, c.compute());
    assertEquals(QuantType.NF4, c.quantization().type());
    assertTrue(c.quantization().doubleQuant());
    assertEquals(64, c.quantization().blockSize());
    assertEquals(16, c.lora().rank());
    assertEquals(32.0, c.lora().alpha());
    assertEquals(2f, c.lora().config().scaling());
    assertEquals(List.of(), c.lora().targetModules());
    assertEquals(LoraPrecision.FAST, c.lora().precision());
    assertEquals(2e-4, c.optimizer().learningRate());
    assertEquals(Scheduler.LINEAR, c.schedule().scheduler());
    assertTrue(c.gradientCheckpointing() && c.data().addEos() && !c.data().packing());
    assertEquals(SampleOrder.SHUFFLED, c.data().order());
    assertEquals(Regularization.NONE, c.regularization());
    assertFalse(c.data().trainOnInputs());
    assertNull(c.data().evalFile());
    assertEquals(c.seed(), c.data().dataSeed());
    // Every documented default can be written out and gives the same configuration.
    StringBuilder written = new StringBuilder(SMALLEST);
    for (TrainConfigKeys.Key key : TrainConfigKeys.ALL) {
      if (!key.defaultText().isEmpty()) {
        written.append(key.name()).append(": ").append(key.defaultText()).append('\n');
      }
    }
    assertEquals(c, parse(written.toString()));
  }

  @Test
  void everyKeyIsDocumented() throws IOException {
    String documentation = Files.readString(FixtureFiles.project("docs/configuration.md"));
    for (TrainConfigKeys.Key key : TrainConfigKeys.ALL) {
      String aliases =
          String.join(", ", key.aliases().stream().map(alias -> "`" + alias + "`").toList());
      String defaultText = key.defaultText().isEmpty() ? "" : "`" + key.defaultText() + "`";
      String row =
          "| `"
              + key.name()
              + "` | "
              + defaultText
              + " | "
              + aliases
              + " | "
              + key.meaning()
              + " |";
      assertTrue(
          documentation.contains("\n" + row + "\n"),
          () -> "docs/configuration.md lacks the row\n" + row);
    }
  }

  @Test
  void adapterOptions() {
    TrainConfig c =
        TrainConfigReader.parse(
            """
            model: m
            train_file: t.jsonl
            output_dir: o
            lora_r: 8
            lora_target_modules: .*\\.(q|v)_proj
            exclude_modules: [layers.0.self_attn.q_proj]
            rank_pattern: {q_proj: 4}
            alpha_pattern: {v_proj: 2.5}
            peft_use_dora: true
            bias: lora_only
            lora_modules_to_save: [embed_tokens, lm_head]
            init_lora_weights: gaussian
            loraplus_lr_ratio: 16
            loraplus_lr_embedding: 1e-6
            """,
            "test",
            List.of());
    LoraConfig lora = c.lora().config();
    assertEquals(".*\\.(q|v)_proj", lora.targets().expression());
    assertEquals(List.of("layers.0.self_attn.q_proj"), lora.targets().exclude());
    assertEquals(Map.of("q_proj", 4), lora.rankPattern());
    assertEquals(Map.of("v_proj", 2.5), lora.alphaPattern());
    assertTrue(lora.dora());
    assertEquals(LoraConfig.Bias.LORA_ONLY, lora.bias());
    assertEquals(List.of("embed_tokens", "lm_head"), lora.modulesToSave());
    assertEquals(LoraInit.Kind.GAUSSIAN, lora.init().kind());
    assertEquals(16.0, c.optimizer().loraPlusRatio());
    assertEquals(1e-6, c.optimizer().embeddingRate());
    TrainConfig layers =
        TrainConfigReader.parse(
            "model: m\ntrain_file: t\noutput_dir: o\nlora_target_modules: q_proj\n"
                + "layers_to_transform: [0, 3]\nlayers_pattern: h\n",
            "test",
            List.of());
    assertEquals(List.of("q_proj"), layers.lora().targetModules(), "a text that is a name");
    assertEquals(List.of(0, 3), layers.lora().config().targets().layers());
    assertEquals(List.of("h"), layers.lora().config().targets().layersPattern());
    assertEquals("[0, 3]", layers.trainingSettings().get("layers_to_transform"));
    assertEquals("[h]", layers.trainingSettings().get("layers_pattern"));
  }

  @Test
  void quantizationDecidesTheMethodWhereNobodyDid() {
    String base = "model: m\ntrain_file: t\noutput_dir: o\n";
    record Case(String yaml, TrainConfig.Method method, TrainConfig.@Nullable EightBit eightBit) {}
    for (Case c :
        List.of(
            new Case("", TrainConfig.Method.QLORA, null),
            new Case("quantization: fp4\n", TrainConfig.Method.QLORA, null),
            new Case("quantization: none\n", TrainConfig.Method.LORA, null),
            new Case("quantization: int8\n", TrainConfig.Method.LORA, TrainConfig.EightBit.INT8),
            new Case("load_in_8bit: true\n", TrainConfig.Method.LORA, TrainConfig.EightBit.INT8),
            new Case(
                "method: lora\nquantization: fp8\n",
                TrainConfig.Method.LORA,
                TrainConfig.EightBit.FP8))) {
      TrainConfig config = TrainConfigReader.parse(base + c.yaml(), "test", List.of());
      assertEquals(c.method(), config.method(), c.yaml());
      assertEquals(c.eightBit(), config.quantization().eightBit(), c.yaml());
    }
    TrainConfig fp4 = TrainConfigReader.parse(base + "quantization: fp4\n", "test", List.of());
    assertEquals(QuantType.FP4, fp4.quantization().type());
    TrainConfig int8 =
        TrainConfigReader.parse(
            base + "quantization: int8\nllm_int8_threshold: 6\n", "test", List.of());
    assertEquals(6, int8.quantization().outlierThreshold());
    assertEquals("6.0", int8.trainingSettings().get("llm_int8_threshold"));
    assertEquals("INT8", int8.trainingSettings().get("quantization"));
  }

  @Test
  void theExamplesAreValid() {
    for (String name : new String[] {"quickstart", "pretrain", "polyglot-ko-12.8b"}) {
      TrainConfigReader.read(FixtureFiles.project("examples/" + name + ".yaml"), List.of());
    }
  }

  @Test
  void namesOfOtherToolsAreUnderstood() {
    TrainConfig axolotl =
        parse(
            """
            base_model: base
            adapter: qlora
            load_in_4bit: true
            train_file: [a.jsonl, b.txt]
            val_set_size: 0.05
            output_dir: out
            sequence_len: 2048
            lora_r: 32
            lora_alpha: 16
            lora_dropout: 0.05
            lora_target_linear: true
            gradient_accumulation_steps: 4
            micro_batch_size: 2
            num_epochs: 4
            optimizer: adamw_torch
            lr_scheduler: cosine
            learning_rate: 2e-4
            train_on_inputs: false
            bf16: auto
            warmup_steps: 10
            weight_decay: 0.0
            sample_packing: false
            """);
    assertEquals(List.of(Path.of("a.jsonl"), Path.of("b.txt")), axolotl.data().trainFiles());
    assertEquals(2048, axolotl.data().sequenceLength());
    assertEquals(0.5f, axolotl.lora().config().scaling());
    assertEquals(2, axolotl.schedule().microBatchSize());
    assertEquals(4.0, axolotl.schedule().epochs());
    assertEquals(2e-4, axolotl.optimizer().learningRate());
    TrainConfig peft =
        parse(
            """
            model_name_or_path: base
            data_files: a.jsonl
            output_dir: out
            r: 8
            use_rslora: true
            target_modules: [q_proj, v_proj]
            max_length: 1024
            bnb_4bit_compute_dtype: float32
            completion_only_loss: false
            bf16: false
            """);
    assertEquals(List.of("q_proj", "v_proj"), peft.lora().targetModules());
    assertEquals((float) (16 / Math.sqrt(8)), peft.lora().config().scaling());
    assertEquals(Compute.FLOAT32, peft.compute());
    assertTrue(peft.data().trainOnInputs());
  }

  @Test
  void overridesWinInOrder() {
    TrainConfig c =
        parse(
            SMALLEST + "lora_r: 4\n",
            "r=8",
            "lora_r=16",
            "target_modules=[q_proj, v_proj]",
            "learning_rate=1E-3",
            "eval_file=",
            "sample_prompts=[\"a: b\"]");
    assertEquals(16, c.lora().rank());
    assertEquals(List.of("q_proj", "v_proj"), c.lora().targetModules());
    assertEquals(1e-3, c.optimizer().learningRate());
    assertEquals(List.of("a: b"), c.samples().prompts());
    assertRefused(() -> parse(SMALLEST, "lora_r"), "--set", "key=value");
    assertRefused(() -> parse(SMALLEST, "lorar=4"), "--set", "'lorar'", "did you mean lora_r");
    assertRefused(() -> parse(SMALLEST, "lora_r=four"), "--set lora_r", "'four'", "integer");
  }

  @ParameterizedTest
  @CsvSource({
    "learning_rat,learning_rate",
    "lora_rank_,lora_rank",
    "targetmodules,target_modules",
    "ouput_dir,output_dir",
    "sequence_lenght,sequence_length",
    "gradient_accumulation_step,gradient_accumulation_steps"
  })
  void slipsOfThePenAreAnsweredWithTheNearestKey(String written, String meant) {
    assertRefused(
        () -> parse(SMALLEST + written + ": 1\n"),
        "c.yaml",
        "'" + written + "'",
        "did you mean " + meant + "?");
  }

  @Test
  void keysWithoutCounterpartSayWhatToDo() {
    assertRefused(() -> parse(SMALLEST + "datasets: []\n"), "'datasets'", "train_file");
    assertRefused(() -> parse(SMALLEST + "zzzzzzzzzzzz: 1\n"), "unknown key 'zzzzzzzzzzzz'");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "lora_r: 0|lora_r: expected an integer of 1 to 4096, found '0'",
        "lora_r: 1.5|lora_r: expected an integer",
        "r: eight|r: expected an integer of 1 to 4096, found 'eight'",
        "lora_r: [8]|found a list",
        "lora_alpha: 0|above 0",
        "lora_dropout: 1|below 1",
        "lora_dropout: -0.1|lora_dropout: expected a number of 0",
        "learning_rate: fast|learning_rate: expected a number",
        "learning_rate: nan|learning_rate: expected a number",
        "method: dora|method: expected one of full, lora, qlora, found 'dora'",
        "bnb_4bit_quant_type: int4|fp4, nf4",
        "blocksize: 48|power of two",
        "bnb_4bit_use_double_quant: 2|true or false",
        "optim: lion|optim: expected adamw, adamw_8bit, paged_adamw_32bit or paged_adamw_8bit, found 'lion'",
        "optim: paged_adamw_8bit\\noptimizer_memory_budget: 0%|optimizer_memory_budget: expected a share such as 25%",
        "optim: paged_adamw_8bit\\noptimizer_memory_budget: 101%|found '101%'",
        "optim: paged_adamw_8bit\\noptimizer_memory_budget: much|found 'much'",
        "optim: paged_adamw_8bit\\noptimizer_memory_budget: 0.25|found '0.25'",
        "optimizer_memory_budget: 25%|optimizer_memory_budget: expected no value without optim: paged_adamw_32bit",
        "optim: adamw_8bit\\npaging_dir: /tmp|paging_dir: expected no value without optim",
        "gradient_checkpointing: false\\nactivation_offloading: true|activation_offloading: expected false, or",
        "lr_scheduler_type: polynomial|constant, constant_with_warmup, cosine, linear",
        "fp16: true|bf16",
        "packing_strategy: wrapped|packing_strategy",
        "shuffle: false\\ngroup_by_length: true|group_by_length",
        "label_smoothing_factor: 1|label_smoothing_factor",
        "neftune_noise_alpha: -1|neftune_noise_alpha",
        "load_in_4bit: false|load_in_4bit",
        "bf16: true\\ncompute: float32|bf16",
        "completion_only_loss: true\\ntrain_on_inputs: true|completion_only_loss",
        "val_set_size: 1.5|whole number",
        "val_set_size: 0.1\\neval_file: e.jsonl|val_set_size",
        "lora_target_modules: [all-linear, q_proj]|all-linear alone",
        "prompt_template: hello|{instruction}",
        "init: random|method: full",
        "sequence_length: 1|an integer of 2",
        "seed: 1.5|an integer",
        "checkpoint_every: 0|checkpoint_every: expected an integer of 1",
        "gradient_checkpointing: false\\ncheckpoint_every: 2|checkpoint_every: expected 1, or gradient_checkpointing: true",
        "checkpoint_save: [attention, heads]|checkpoint_save: expected a list of attention, mlp, qkv, residual, found 'heads'",
        "checkpoint_save: {a: b}|checkpoint_save: expected a text or a list",
        "gradient_checkpointing: false\\ncheckpoint_save: [mlp]|checkpoint_save: expected no value, or gradient_checkpointing: true",
        "lora_r: 8\\nr: 16|mean the same",
        "quantization: int4|expected one of fp4, fp8, int8, nf4, none",
        "quantization: int8\\nmethod: qlora|8 bits need method: lora",
        "quantization: nf4\\nmethod: lora|4 bits need method: qlora",
        "quantization: fp8\\nmethod: full|none with method: full",
        "load_in_8bit: true\\nquantization: fp8|load_in_8bit: expected false, or quantization: int8",
        "load_in_8bit: true\\nmethod: qlora|load_in_8bit",
        "load_in_8bit: false\\nquantization: int8|load_in_8bit",
        "load_in_4bit: true\\nquantization: int8|load_in_4bit",
        "quantization: fp4\\nbnb_4bit_quant_type: nf4|the same as quantization",
        "llm_int8_threshold: 6|llm_int8_threshold: expected 0",
        "llm_int8_threshold: 6\\nquantization: int8\\ncompute: float32|llm_int8_threshold",
      })
  void wrongValuesSayKeyFoundAndExpected(String line, String part) {
    assertRefused(() -> parse(SMALLEST + line.replace("\\n", "\n") + "\n"), "c.yaml: ", part);
  }

  @ParameterizedTest
  @ValueSource(strings = {"model", "train_file", "output_dir"})
  void requiredKeys(String key) {
    String without = SMALLEST.replaceAll("(?m)^" + key + ":.*\n", "");
    assertRefused(() -> parse(without), "c.yaml: " + key + ": expected", "found no such key");
  }

  @Test
  void refusesWhatIsNoYaml() {
    assertRefused(() -> parse("a: [1\nb: 2\n"), "c.yaml", "line", "not valid YAML");
    assertRefused(() -> parse("just a text"), "`key: value` lines");
    assertRefused(() -> parse("lora_r: 1\nlora_r: 2\n"), "not valid YAML", "lora_r");
    assertRefused(() -> parse(""), "model: expected");
    assertRefused(
        () -> TrainConfigReader.read(Path.of("absent.yaml"), List.of()),
        "no such file: absent.yaml");
  }

  @Test
  void theTrainingSettingsAreWhatDecidesTheWeights() {
    TrainConfig c = parse(SMALLEST);
    for (String same :
        new String[] {
          "output_dir=elsewhere",
          "threads=1",
          "logging_steps=1",
          "save_steps=7",
          "sample_prompts=[x]",
          "gradient_checkpointing=false",
          "checkpoint_every=3",
          "checkpoint_save=[attention, mlp]",
          "activation_offloading=true",
          "optim=paged_adamw_32bit",
          "learning_rate=0.0002"
        }) {
      assertEquals(c.trainingSettings(), parse(SMALLEST, same).trainingSettings(), same);
    }
    for (String other :
        new String[] {
          "seed=1",
          "lora_r=8",
          "learning_rate=1e-4",
          "max_steps=3",
          "sequence_length=64",
          "data_seed=1",
          "compute=float32",
          "bnb_4bit_quant_type=fp4",
          "lora_dropout=0.1",
          "val_set_size=2",
          "optim=adamw_8bit"
        }) {
      assertNotEquals(c.trainingSettings(), parse(SMALLEST, other).trainingSettings(), other);
    }
    Map<String, String> changed = new TreeMap<>(c.trainingSettings());
    assertEquals("32.0", changed.put("lora_alpha", "64.0"));
    assertEquals("16", changed.put("lora_r", "32"));
    assertEquals(changed, parse(SMALLEST, "lora_r=32").trainingSettings());
  }

  @Test
  void optimizersAndTheirBudgets() {
    assertEquals(Optim.ADAMW, parse(SMALLEST).optimizer().optim());
    assertEquals(Optim.ADAMW, parse(SMALLEST, "optim=adamw_torch").optimizer().optim());
    assertEquals(Optim.ADAMW_8BIT, parse(SMALLEST, "optim=adamw_bnb_8bit").optimizer().optim());
    TrainConfig paged = parse(SMALLEST, "optim=paged_adamw_32bit");
    assertEquals(MemoryBudget.ofShare(0.25), paged.optimizer().memoryBudget());
    assertNull(paged.pagingDirectory());
    assertEquals(
        MemoryBudget.ofBytes(512 << 20),
        parse(SMALLEST, "optim=paged_adamw_8bit", "optimizer_memory_budget=512MiB")
            .optimizer()
            .memoryBudget());
    for (String key : List.of("paging_dir", "optimizer_paging_dir")) {
      assertEquals(
          Path.of("pages"),
          parse(SMALLEST, "optim=paged_adamw_8bit", key + "=pages").pagingDirectory());
    }
    assertEquals(
        Path.of("pages"),
        parse(SMALLEST, "activation_offloading=true", "paging_dir=pages").pagingDirectory());
    assertEquals(MemoryBudget.ofBytes(1_500_000_000L), MemoryBudget.parse("1.5 GB"));
    assertEquals(MemoryBudget.ofBytes(4000), MemoryBudget.parse("4k"));
    assertEquals(MemoryBudget.ofBytes(1_000_000), MemoryBudget.parse("1000000"));
    assertEquals(MemoryBudget.ofShare(0.125), MemoryBudget.parse("12.5%"));
    assertEquals(25, MemoryBudget.ofShare(0.25).of(100));
    assertEquals(100, MemoryBudget.ofBytes(4096).of(100));
    for (String text : new String[] {"", "%", "-1", "1e9", "10 apples", "0", "200%", "1 ib k"}) {
      assertNull(MemoryBudget.parse(text), text);
    }
  }

  /** The values of transformers' get_scheduler with 4 warm-up steps of 20. */
  @Test
  void learningRatesAreThoseOfTransformers() {
    TrainConfig.Schedule linear = parse(SMALLEST + "warmup_steps: 4\n").schedule();
    assertEquals(0.0, linear.factor(0, 20));
    assertEquals(0.25, linear.factor(1, 20));
    assertEquals(1.0, linear.factor(4, 20));
    assertEquals(0.5, linear.factor(12, 20));
    assertEquals(1.0 / 16, linear.factor(19, 20));
    TrainConfig.Schedule cosine =
        parse(SMALLEST + "warmup_ratio: 0.2\nlr_scheduler: cosine\n").schedule();
    assertEquals(4, cosine.warmup(20));
    assertEquals(0.75, cosine.factor(3, 20));
    assertEquals(0.5 * (1 + Math.cos(Math.PI / 4)), cosine.factor(8, 20), 1e-15);
    assertEquals(0.5, cosine.factor(12, 20), 1e-15);
    TrainConfig.Schedule constant =
        parse(SMALLEST + "warmup_steps: 4\nlr_scheduler: constant\n").schedule();
    assertEquals(1.0, constant.factor(0, 20), "as in transformers, constant has no warm-up");
    TrainConfig.Schedule warm =
        parse(SMALLEST + "warmup_steps: 4\nlr_scheduler: constant_with_warmup\n").schedule();
    assertEquals(0.5, warm.factor(2, 20));
    assertEquals(1.0, warm.factor(19, 20));
    assertEquals(30, parse(SMALLEST + "num_epochs: 2.5\n").schedule().totalSteps(12));
    assertEquals(7, parse(SMALLEST + "num_epochs: 2.5\nmax_steps: 7\n").schedule().totalSteps(12));
  }
}
