// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import com.fasterxml.jackson.core.JsonLocation;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.PeftAdapterConfig;
import org.qlora4j.common.ByteSize;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.data.SampleOrder;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.TargetModules;
import org.qlora4j.model.CheckpointSave;
import org.qlora4j.model.Regularization;
import org.qlora4j.tensor.ComputeDevice;
import org.qlora4j.train.TrainConfig.Compute;
import org.qlora4j.train.TrainConfig.EightBit;
import org.qlora4j.train.TrainConfig.Init;
import org.qlora4j.train.TrainConfig.LoraPrecision;
import org.qlora4j.train.TrainConfig.Method;
import org.qlora4j.train.TrainConfig.Optim;
import org.qlora4j.train.TrainConfig.QuantType;
import org.qlora4j.train.TrainConfig.Scheduler;

/**
 * Reads a {@link TrainConfig} from YAML; every mistake gives one line with the key, what was found
 * and what is expected.
 */
public final class TrainConfigReader {
  private static final long MAX_CONFIG_BYTES = 4 << 20;

  private static final YAMLMapper YAML =
      new YAMLMapper(
          YAMLFactory.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build());

  /** Keys of other tools that have no counterpart, with what to write instead. */
  private static final Map<String, String> HINTS =
      Map.of(
          "datasets", "name the files in train_file",
          "deepspeed", "training runs in one process",
          "fsdp", "training runs in one process",
          "flash_attention", "attention needs no switch",
          "pad_to_sequence_len", "there is no padding",
          "special_tokens", "tokens come from the model's tokenizer files",
          "resume_from_checkpoint", "use the option --resume");

  /** The names of Hugging Face's trainer. */
  private static final Map<String, Optim> OPTIMIZERS =
      Map.ofEntries(
          Map.entry("adamw", Optim.ADAMW),
          Map.entry("adamw_torch", Optim.ADAMW),
          Map.entry("adamw_torch_fused", Optim.ADAMW),
          Map.entry("adamw_hf", Optim.ADAMW),
          Map.entry("adamw_8bit", Optim.ADAMW_8BIT),
          Map.entry("adamw_bnb_8bit", Optim.ADAMW_8BIT),
          Map.entry("paged_adamw", Optim.PAGED_ADAMW_32BIT),
          Map.entry("paged_adamw_32bit", Optim.PAGED_ADAMW_32BIT),
          Map.entry("paged_adamw_8bit", Optim.PAGED_ADAMW_8BIT));

  private static final Map<String, Method> METHODS =
      Map.of("full", Method.FULL, "lora", Method.LORA, "qlora", Method.QLORA);

  private final String source;
  private final Map<String, JsonNode> values = new HashMap<>();

  /** The name each canonical key was written under, for messages. */
  private final Map<String, String> writtenAs = new HashMap<>();

  private TrainConfigReader(String source) {
    this.source = source;
  }

  /**
   * Reads a YAML file, then applies `key=value` overrides in order; a value is YAML, so lists are
   * written {@code [a, b]}.
   */
  public static TrainConfig read(Path file, List<String> overrides) {
    return parse(text(file), file.toString(), overrides);
  }

  /** The method of this name, in any case, or null. */
  public static @Nullable Method method(String name) {
    return METHODS.get(name.toLowerCase(Locale.ROOT));
  }

  /** The text of a configuration file. */
  public static String text(Path file) {
    return Json.readText(file, MAX_CONFIG_BYTES);
  }

  /** The same from a text; `source` says in messages where it came from. */
  public static TrainConfig parse(String yaml, String source, List<String> overrides) {
    TrainConfigReader reader = of(yaml, source);
    overrides.forEach(reader::override);
    return reader.config();
  }

  private static TrainConfigReader of(String yaml, String source) {
    TrainConfigReader reader = new TrainConfigReader(source);
    JsonNode root = reader.yaml(yaml, source);
    if (!(root instanceof ObjectNode object)) {
      throw new InputException(source + ": expected `key: value` lines, found " + Json.kind(root));
    }
    reader.addAll(object);
    return reader;
  }

  /**
   * A configuration for another method than it may have been written for.
   *
   * @param leftOut "key: value" of the options that this method refuses; what is said of the base's
   *     quantization is left out too, and not told: a method stands for one
   */
  public record ForMethod(TrainConfig config, List<String> leftOut) {
    public ForMethod {
      leftOut = List.copyOf(leftOut);
    }
  }

  /**
   * As {@link #parse}, for {@code method}: of the text and the overrides, what it refuses is left
   * out.
   *
   * @param demands overrides that come after that, and are refused where they do not go with it
   */
  public static ForMethod parseFor(
      Method method, String yaml, String source, List<String> overrides, List<String> demands) {
    TrainConfigReader reader = of(yaml, source);
    overrides.forEach(reader::override);
    List<String> leftOut = reader.fit(method);
    demands.forEach(reader::override);
    return new ForMethod(reader.config(), leftOut);
  }

  /** Sets the method and takes away what {@link #config} would refuse beside it. */
  private List<String> fit(Method method) {
    Base base = base();
    boolean fits =
        base != null
            && switch (method) {
              case QLORA -> base.fourBit != null;
              case LORA -> base.fourBit == null;
              case FULL -> base == Base.NONE;
            };
    if (!fits) {
      values.keySet().removeAll(List.of("quantization", "load_in_8bit", "llm_int8_threshold"));
    }
    Boolean in4bit = optionalBool("load_in_4bit");
    if (in4bit != null && in4bit != (method == Method.QLORA)) {
      values.remove("load_in_4bit");
    }
    List<String> leftOut = new ArrayList<>();
    LoraInit init = LoraInit.parse(text("init_lora_weights", "true"));
    if (method != Method.QLORA && init != null && init.kind() == LoraInit.Kind.LOFTQ) {
      leaveOut("init_lora_weights", leftOut);
    }
    if (!method.adapter()) {
      leaveOut("init_adapter", leftOut);
      leaveOut("loraplus_lr_ratio", leftOut);
      leaveOut("loraplus_lr_embedding", leftOut);
    } else if (text("init", "").equalsIgnoreCase("random")) {
      leaveOut("init", leftOut);
    }
    values.put("method", YAML.getNodeFactory().textNode(method.name()));
    return leftOut;
  }

  private void leaveOut(String key, List<String> leftOut) {
    JsonNode value = value(key);
    values.remove(key);
    if (value != null) {
      leftOut.add(key + ": " + (value.isValueNode() ? value.asText() : Json.compact(value)));
    }
  }

  private JsonNode yaml(String text, String where) {
    try {
      JsonNode node = YAML.readTree(text);
      return node == null || node.isMissingNode() ? Json.newObject() : node;
    } catch (JsonProcessingException e) {
      JsonLocation location = e.getLocation();
      throw new InputException(
          where
              + (location == null ? "" : " line " + location.getLineNr())
              + ": not valid YAML: "
              + Text.oneLine(firstLine(e.getOriginalMessage())),
          e);
    }
  }

  private static String firstLine(String message) {
    int end = message.indexOf('\n');
    return end < 0 ? message : message.substring(0, end);
  }

  private void addAll(ObjectNode object) {
    for (Map.Entry<String, JsonNode> entry : object.properties()) {
      String name = entry.getKey();
      TrainConfigKeys.Key key = known(name, source);
      String before = writtenAs.put(key.name(), name);
      JsonNode old = values.put(key.name(), entry.getValue());
      if (before != null && old != null && !old.equals(entry.getValue())) {
        throw new InputException(
            source
                + ": "
                + before
                + " and "
                + name
                + " mean the same, found "
                + Json.kind(old)
                + " and "
                + Json.kind(entry.getValue())
                + "; keep one");
      }
    }
  }

  private void override(String override) {
    int equals = override.indexOf('=');
    if (equals < 1) {
      throw new InputException("--set: expected key=value, found " + Text.quote(override));
    }
    String name = override.substring(0, equals).trim();
    TrainConfigKeys.Key key = known(name, "--set");
    String text = override.substring(equals + 1);
    values.put(
        key.name(),
        text.isBlank() ? YAML.getNodeFactory().nullNode() : yaml(text, "--set " + name));
    writtenAs.put(key.name(), "--set " + name);
  }

  private static TrainConfigKeys.Key known(String name, String where) {
    TrainConfigKeys.Key key = TrainConfigKeys.find(name);
    if (key != null) {
      return key;
    }
    String hint = HINTS.get(name);
    String near = Text.nearest(name, TrainConfigKeys.names());
    throw new InputException(
        where
            + ": unknown key "
            + Text.quote(name)
            + (hint != null
                ? "; " + hint
                : near != null
                    ? "; did you mean " + near + "?"
                    : "; all keys are listed by `train --help-keys`"));
  }

  private TrainConfig config() {
    Base base = base();
    Method method =
        choice(
            "method", base == null || base.fourBit != null ? Method.QLORA : Method.LORA, METHODS);
    checkBase(base, method);
    Boolean in4bit = optionalBool("load_in_4bit");
    if (in4bit != null && in4bit != (method == Method.QLORA)) {
      throw wrong(
          "load_in_4bit",
          in4bit ? "false, or method: qlora" : "true, or another method than qlora");
    }
    if (bool("fp16", false)) {
      throw wrong("fp16", "false; use bf16: true");
    }
    long seed = longInteger("seed", 42);
    Init init =
        choice(
            "init", Init.CHECKPOINT, Map.of("checkpoint", Init.CHECKPOINT, "random", Init.RANDOM));
    if (init == Init.RANDOM && method != Method.FULL) {
      throw wrong("init", "checkpoint; random weights need method: full");
    }
    boolean checkpointing = bool("gradient_checkpointing", true);
    int checkpointEvery = integer("checkpoint_every", 1, 1, 1 << 16);
    if (checkpointEvery > 1 && !checkpointing) {
      throw wrong("checkpoint_every", "1, or gradient_checkpointing: true");
    }
    Set<CheckpointSave> checkpointSave = checkpointSave(checkpointing);
    TrainConfig.Optimizer optimizer = optimizer(method);
    boolean offloading = bool("activation_offloading", false);
    if (offloading && !checkpointing) {
      throw wrong("activation_offloading", "false, or gradient_checkpointing: true");
    }
    return new TrainConfig(
        path("model"),
        init,
        method,
        path("output_dir"),
        compute(),
        choice(
            "device",
            ComputeDevice.AUTO,
            Map.of(
                "auto", ComputeDevice.AUTO,
                "cpu", ComputeDevice.CPU,
                "cuda", ComputeDevice.CUDA)),
        data(seed),
        quantization(base),
        adapter(method),
        optimizer,
        schedule(),
        new TrainConfig.Output(
            integer("logging_steps", 10, 0, Integer.MAX_VALUE),
            integer("eval_steps", 0, 0, Integer.MAX_VALUE),
            integer("save_steps", 0, 0, Integer.MAX_VALUE),
            integer("save_total_limit", 2, 0, Integer.MAX_VALUE)),
        new TrainConfig.Samples(
            texts("sample_prompts"),
            integer("sample_max_new_tokens", 64, 1, 1 << 20),
            number("sample_temperature", 0, 0, 100),
            integer("sample_top_k", 0, 0, Integer.MAX_VALUE),
            positive("sample_top_p", 1, 1),
            number("sample_repetition_penalty", 1, 0.01, 100)),
        seed,
        integer("threads", 0, 0, 4096),
        checkpointing,
        checkpointEvery,
        checkpointSave,
        offloading,
        pagingDirectory(optimizer.optim(), offloading),
        integer("loss_chunk", 1024, 1, 1 << 24),
        regularization(),
        memory());
  }

  /** What `quantization` may say. */
  private enum Base {
    NONE(null, null),
    NF4(QuantType.NF4, null),
    FP4(QuantType.FP4, null),
    INT8(null, EightBit.INT8),
    FP8(null, EightBit.FP8);

    private final @Nullable QuantType fourBit;
    private final @Nullable EightBit eightBit;

    Base(@Nullable QuantType fourBit, @Nullable EightBit eightBit) {
      this.fourBit = fourBit;
      this.eightBit = eightBit;
    }
  }

  /** How the base is to be held, or null where nobody said. */
  private @Nullable Base base() {
    Base base =
        value("quantization") == null
            ? null
            : choice(
                "quantization",
                Base.NONE,
                Map.of(
                    "none", Base.NONE,
                    "nf4", Base.NF4,
                    "fp4", Base.FP4,
                    "int8", Base.INT8,
                    "fp8", Base.FP8));
    Boolean in8bit = optionalBool("load_in_8bit");
    if (in8bit != null && in8bit) {
      if (base != null && base != Base.INT8) {
        throw wrong("load_in_8bit", "false, or quantization: int8");
      }
      return Base.INT8;
    }
    if (in8bit != null && base == Base.INT8) {
      throw wrong("load_in_8bit", "true, or another quantization than int8");
    }
    return base;
  }

  private void checkBase(@Nullable Base base, Method method) {
    if (base == null) {
      return;
    }
    String key = value("quantization") == null ? "load_in_8bit" : "quantization";
    if (method == Method.QLORA && base.fourBit == null) {
      throw wrong(key, "nf4 or fp4 with method: qlora; 8 bits need method: lora");
    }
    if (method == Method.LORA && base.fourBit != null) {
      throw wrong(key, "int8, fp8 or none with method: lora; 4 bits need method: qlora");
    }
    if (method == Method.FULL && base != Base.NONE) {
      throw wrong(key, "none with method: full, which trains the weights themselves");
    }
  }

  private TrainConfig.Quantization quantization(@Nullable Base base) {
    QuantType type =
        choice(
            "bnb_4bit_quant_type",
            base == Base.FP4 ? QuantType.FP4 : QuantType.NF4,
            Map.of("nf4", QuantType.NF4, "fp4", QuantType.FP4));
    if (base != null && base.fourBit != null && base.fourBit != type) {
      throw wrong("bnb_4bit_quant_type", "the same as quantization, or only one of the two");
    }
    double threshold = number("llm_int8_threshold", 0, 0, 1e6);
    if (threshold > 0 && (base != Base.INT8 || compute() != Compute.BFLOAT16)) {
      throw wrong(
          "llm_int8_threshold",
          "0; only quantization: int8 with compute: bfloat16 multiplies activations in 8 bits");
    }
    return new TrainConfig.Quantization(
        type,
        bool("bnb_4bit_use_double_quant", true),
        blockSize(),
        base == null ? null : base.eightBit,
        threshold);
  }

  private TrainConfig.Data data(long seed) {
    Boolean completionOnly = optionalBool("completion_only_loss");
    Boolean onInputs = optionalBool("train_on_inputs");
    if (completionOnly != null && onInputs != null && completionOnly.equals(onInputs)) {
      throw wrong(
          "completion_only_loss", "the opposite of train_on_inputs, or only one of the two");
    }
    List<Path> files = new ArrayList<>();
    for (String file : texts("train_file")) {
      files.add(toPath("train_file", file));
    }
    if (files.isEmpty()) {
      throw missing("train_file", "a file of examples (.jsonl, .json or .txt)");
    }
    double valSetSize = number("val_set_size", 0, 0, Integer.MAX_VALUE);
    if (valSetSize >= 1 && valSetSize != Math.rint(valSetSize)) {
      throw wrong("val_set_size", "a share below 1 or a whole number of examples");
    }
    String evalFile = optionalText("eval_file");
    if (evalFile != null && valSetSize > 0) {
      throw wrong("val_set_size", "0 next to eval_file");
    }
    return new TrainConfig.Data(
        files,
        evalFile == null ? null : toPath("eval_file", evalFile),
        valSetSize,
        integer("sequence_length", 512, 2, 1 << 24),
        onInputs != null ? onInputs : completionOnly != null && !completionOnly,
        bool("add_eos", true),
        promptTemplate(),
        text("chat_template", "tokenizer"),
        longInteger("data_seed", seed),
        order(),
        packing());
  }

  private SampleOrder order() {
    boolean shuffle = bool("shuffle", true);
    if (!bool("group_by_length", false)) {
      return shuffle ? SampleOrder.SHUFFLED : SampleOrder.SEQUENTIAL;
    }
    if (!shuffle) {
      throw wrong("group_by_length", "false, or shuffle: true, whose order it groups");
    }
    return SampleOrder.LENGTH_GROUPED;
  }

  private boolean packing() {
    boolean packing = bool("packing", false);
    String strategy = optionalText("packing_strategy");
    if (strategy != null && !strategy.equals("bfd")) {
      throw wrong("packing_strategy", "bfd; examples are never cut to fill a row");
    }
    return packing;
  }

  private Regularization regularization() {
    return new Regularization(
        probability("label_smoothing_factor", 0),
        number("z_loss", 0, 0, 1e3),
        number("neftune_noise_alpha", 0, 0, 1e6));
  }

  private TrainConfig.Optimizer optimizer(Method method) {
    Optim optim =
        choice(
            "optim",
            Optim.ADAMW,
            OPTIMIZERS,
            "adamw, adamw_8bit, paged_adamw_32bit or paged_adamw_8bit");
    if (!optim.paged() && value("optimizer_memory_budget") != null) {
      throw wrong(
          "optimizer_memory_budget",
          "no value without optim: paged_adamw_32bit or paged_adamw_8bit");
    }
    double ratio = positive("loraplus_lr_ratio", 1, 1e6);
    double embeddingRate = number("loraplus_lr_embedding", 0, 0, 1e3);
    if (!method.adapter() && ratio != 1) {
      throw wrong("loraplus_lr_ratio", "1 with method: full, which has one rate");
    }
    if (!method.adapter() && embeddingRate > 0) {
      throw wrong("loraplus_lr_embedding", "no value with method: full, which has one rate");
    }
    return new TrainConfig.Optimizer(
        optim,
        number("learning_rate", 2e-4, 0, 1e3),
        number("weight_decay", 0, 0, 1e3),
        probability("adam_beta1", 0.9),
        probability("adam_beta2", 0.999),
        number("adam_epsilon", 1e-8, 0, 1),
        number("max_grad_norm", 1, 0, 1e9),
        memoryBudget("optimizer_memory_budget", MemoryBudget.ofShare(0.25)),
        ratio,
        embeddingRate);
  }

  private Set<CheckpointSave> checkpointSave(boolean checkpointing) {
    String key = "checkpoint_save";
    Set<CheckpointSave> save =
        CheckpointSave.parse(source + ": " + writtenAs.getOrDefault(key, key), texts(key));
    if (!save.isEmpty() && !checkpointing) {
      throw wrong(key, "no value, or gradient_checkpointing: true");
    }
    return save;
  }

  private @Nullable Path pagingDirectory(Optim optim, boolean offloading) {
    String directory = optionalText("paging_dir");
    if (directory != null && !optim.paged() && !offloading) {
      throw wrong(
          "paging_dir",
          "no value without optim: paged_adamw_32bit or paged_adamw_8bit, or activation_offloading:"
              + " true");
    }
    return directory == null ? null : toPath("paging_dir", directory);
  }

  private MemoryBudget memoryBudget(String key, MemoryBudget otherwise) {
    String text = optionalText(key);
    if (text == null) {
      return otherwise;
    }
    MemoryBudget budget = MemoryBudget.parse(text);
    if (budget == null) {
      throw wrong(key, "a share such as 25%, or bytes such as 512MiB");
    }
    return budget;
  }

  private TrainConfig.Schedule schedule() {
    return new TrainConfig.Schedule(
        integer("per_device_train_batch_size", 1, 1, 1 << 20),
        integer("gradient_accumulation_steps", 1, 1, 1 << 20),
        number("num_train_epochs", 1, 1e-6, 1e9),
        Math.max(0, integer("max_steps", 0, -1, Integer.MAX_VALUE)),
        choice(
            "lr_scheduler_type",
            Scheduler.LINEAR,
            Map.of(
                "constant", Scheduler.CONSTANT,
                "constant_with_warmup", Scheduler.CONSTANT_WITH_WARMUP,
                "linear", Scheduler.LINEAR,
                "cosine", Scheduler.COSINE)),
        integer("warmup_steps", 0, 0, Integer.MAX_VALUE),
        number("warmup_ratio", 0, 0, 1));
  }

  private TrainConfig.Memory memory() {
    String limit = optionalText("memory_limit");
    return new TrainConfig.Memory(
        limit == null ? 0 : ByteSize.parse(source + ": memory_limit", limit),
        bool("ignore_memory_plan", false),
        bool("auto_micro_batch", false));
  }

  private Compute compute() {
    Map<String, Compute> names =
        Map.of(
            "bfloat16", Compute.BFLOAT16,
            "bf16", Compute.BFLOAT16,
            "torch.bfloat16", Compute.BFLOAT16,
            "float32", Compute.FLOAT32,
            "fp32", Compute.FLOAT32,
            "torch.float32", Compute.FLOAT32);
    JsonNode bf16 = value("bf16");
    Compute byFlag = null;
    if (bf16 != null && !bf16.asText().equals("auto")) {
      byFlag = bool("bf16", true) ? Compute.BFLOAT16 : Compute.FLOAT32;
    }
    if (value("compute") == null) {
      return byFlag == null ? Compute.BFLOAT16 : byFlag;
    }
    Compute compute = choice("compute", Compute.BFLOAT16, names, "bfloat16 or float32");
    if (byFlag != null && byFlag != compute) {
      throw wrong("bf16", "the same as compute, or only one of the two");
    }
    return compute;
  }

  private int blockSize() {
    int size = integer("bnb_4bit_blocksize", 64, 32, 4096);
    if (Integer.bitCount(size) != 1) {
      throw wrong("bnb_4bit_blocksize", "a power of two from 32 to 4096");
    }
    return size;
  }

  private String promptTemplate() {
    String template = text("prompt_template", "alpaca");
    if (!template.equals("alpaca") && !template.contains("{instruction}")) {
      throw wrong(
          "prompt_template", "alpaca, or a text with {instruction} and, where it is used, {input}");
    }
    return template;
  }

  // ---- the adapter

  /** Keys that say what an adapter is, which one that training goes on from says itself. */
  private static final List<String> ADAPTER_KEYS =
      List.of(
          "lora_r",
          "lora_alpha",
          "lora_target_modules",
          "lora_target_linear",
          "exclude_modules",
          "layers_to_transform",
          "layers_pattern",
          "rank_pattern",
          "alpha_pattern",
          "use_rslora",
          "use_dora",
          "bias",
          "modules_to_save",
          "init_lora_weights");

  private TrainConfig.Lora adapter(Method method) {
    LoraPrecision precision =
        choice(
            "lora_compute",
            LoraPrecision.FAST,
            Map.of("fast", LoraPrecision.FAST, "float32", LoraPrecision.FLOAT32));
    String directory = optionalText("init_adapter");
    if (directory == null) {
      return new TrainConfig.Lora(adapterConfig(method), precision, null);
    }
    if (!method.adapter()) {
      throw wrong("init_adapter", "no value with method: full, which trains no adapter");
    }
    for (String key : ADAPTER_KEYS) {
      if (value(key) != null) {
        throw wrong(key, "no value next to init_adapter, which decides it");
      }
    }
    Path path = toPath("init_adapter", directory);
    LoraConfig config = PeftAdapterConfig.readFrom(path).lora();
    if (value("lora_dropout") != null) {
      config = config.withDropout(probability("lora_dropout", 0));
    }
    return new TrainConfig.Lora(config, precision, path);
  }

  private LoraConfig adapterConfig(Method method) {
    int rank = integer("lora_r", 16, 1, 4096);
    boolean dora = bool("use_dora", false);
    LoraInit init = init(method, dora);
    Map<String, Integer> ranks = new LinkedHashMap<>();
    pattern("rank_pattern", 4096)
        .forEach(
            (key, number) -> {
              if (number != Math.rint(number) || number < 1) {
                throw wrong("rank_pattern", "integers of 1 to 4096 by names of layers");
              }
              ranks.put(key, (int) (double) number);
            });
    try {
      return new LoraConfig(
          rank,
          positive("lora_alpha", 2.0 * rank, 1e6),
          probability("lora_dropout", 0),
          bool("use_rslora", false),
          targetModules(),
          ranks,
          pattern("alpha_pattern", 1e6),
          dora,
          choice(
              "bias",
              LoraConfig.Bias.NONE,
              Map.of(
                  "none", LoraConfig.Bias.NONE,
                  "all", LoraConfig.Bias.ALL,
                  "lora_only", LoraConfig.Bias.LORA_ONLY)),
          texts("modules_to_save"),
          init);
    } catch (InputException e) {
      String message = String.valueOf(e.getMessage());
      throw message.startsWith(source) ? e : new InputException(source + ": " + message, e);
    }
  }

  private LoraInit init(Method method, boolean dora) {
    String text = text("init_lora_weights", "true");
    LoraInit init = LoraInit.parse(text);
    if (init == null) {
      throw wrong(
          "init_lora_weights", "true, false, gaussian, pissa, pissa_niter_N (such as 4) or loftq");
    }
    if (init.kind() == LoraInit.Kind.PISSA && dora) {
      throw wrong(
          "init_lora_weights",
          "another beginning with use_dora: true; a DoRA that began as a part of the weights could"
              + " not be used on the original base");
    }
    if (init.kind() == LoraInit.Kind.LOFTQ && method != Method.QLORA) {
      throw wrong(
          "init_lora_weights",
          "another beginning, or method: qlora; loftq makes up for what 4 bits lose");
    }
    return init;
  }

  private TargetModules targetModules() {
    Boolean all = optionalBool("lora_target_linear");
    JsonNode written = value("lora_target_modules");
    List<String> targets = texts("lora_target_modules");
    if (targets.contains(TargetModules.ALL_LINEAR)) {
      if (targets.size() > 1) {
        throw wrong("lora_target_modules", "all-linear alone, or names without it");
      }
      targets = List.of();
    } else {
      if (Boolean.TRUE.equals(all) && !targets.isEmpty()) {
        throw wrong("lora_target_linear", "false, or no lora_target_modules");
      }
      if (Boolean.FALSE.equals(all) && targets.isEmpty()) {
        throw wrong("lora_target_linear", "true, or names in lora_target_modules");
      }
    }
    List<String> exclude = texts("exclude_modules");
    boolean expression = isExpression(written, targets);
    boolean excludeExpression = isExpression(value("exclude_modules"), exclude);
    return new TargetModules(
        expression ? List.of() : targets,
        expression ? targets.get(0) : null,
        excludeExpression ? List.of() : exclude,
        excludeExpression ? exclude.get(0) : null,
        layers(),
        texts("layers_pattern"));
  }

  /**
   * Whether names are one regular expression, as PEFT takes a text that is not in a list. A text
   * that could be a name is one: as an expression it would mean one whole path, which it does too.
   */
  private static boolean isExpression(@Nullable JsonNode written, List<String> names) {
    return written != null
        && !written.isArray()
        && names.size() == 1
        && !names.get(0).matches("[\\w.\\-]+");
  }

  private List<Integer> layers() {
    JsonNode written = value("layers_to_transform");
    List<Integer> layers = new ArrayList<>();
    if (written == null) {
      return layers;
    }
    for (JsonNode layer : written.isArray() ? written : List.of(written)) {
      if (!layer.isInt() || layer.intValue() < 0) {
        throw wrong("layers_to_transform", "the number of a layer, from 0, or a list of them");
      }
      layers.add(layer.intValue());
    }
    return layers;
  }

  /** Numbers above 0 by regular expressions. */
  private Map<String, Double> pattern(String key, double most) {
    JsonNode written = value(key);
    Map<String, Double> pattern = new LinkedHashMap<>();
    if (written == null) {
      return pattern;
    }
    if (!written.isObject()) {
      throw wrong(key, "numbers by names of layers, such as {q_proj: 8}");
    }
    for (Map.Entry<String, JsonNode> entry : written.properties()) {
      double number = toNumber(entry.getValue());
      if (!(number > 0 && number <= most)) {
        throw wrong(key, "numbers above 0 and at most " + plain(most) + " by names of layers");
      }
      pattern.put(entry.getKey(), number);
    }
    return pattern;
  }

  // ---- values of one kind; `null` in YAML is the same as leaving the key out

  private @Nullable JsonNode value(String key) {
    JsonNode value = values.get(key);
    return value == null || value.isNull() ? null : value;
  }

  private Path path(String key) {
    String text = optionalText(key);
    if (text == null) {
      throw missing(key, "a directory");
    }
    return toPath(key, text);
  }

  private Path toPath(String key, String text) {
    try {
      return Path.of(text);
    } catch (InvalidPathException e) {
      throw wrong(key, "a path");
    }
  }

  private String text(String key, String otherwise) {
    String text = optionalText(key);
    return text == null ? otherwise : text;
  }

  private @Nullable String optionalText(String key) {
    JsonNode value = value(key);
    if (value == null) {
      return null;
    }
    if (!value.isValueNode() || value.asText().isEmpty()) {
      throw wrong(key, "a text");
    }
    return value.asText();
  }

  private List<String> texts(String key) {
    JsonNode value = value(key);
    List<String> texts = new ArrayList<>();
    if (value == null) {
      return texts;
    }
    for (JsonNode text : value.isArray() ? value : List.of(value)) {
      if (!text.isValueNode() || text.isNull() || text.asText().isEmpty()) {
        throw wrong(key, "a text or a list of texts");
      }
      texts.add(text.asText());
    }
    return texts;
  }

  private boolean bool(String key, boolean otherwise) {
    Boolean value = optionalBool(key);
    return value == null ? otherwise : value;
  }

  private @Nullable Boolean optionalBool(String key) {
    JsonNode value = value(key);
    if (value == null) {
      return null;
    }
    // YAML 1.1 also has yes, no, on and off, which the parser leaves as texts.
    return switch (value.isValueNode() ? value.asText().toLowerCase(Locale.ROOT) : "") {
      case "true", "yes", "on" -> true;
      case "false", "no", "off" -> false;
      default -> throw wrong(key, "true or false");
    };
  }

  private int integer(String key, int otherwise, int least, int most) {
    JsonNode value = value(key);
    if (value == null) {
      return otherwise;
    }
    double number = toNumber(value);
    if (!(number >= least && number <= most) || number != Math.rint(number)) {
      throw wrong(
          key,
          most == Integer.MAX_VALUE
              ? "an integer of at least " + least
              : "an integer of " + least + " to " + most);
    }
    return (int) number;
  }

  private long longInteger(String key, long otherwise) {
    JsonNode value = value(key);
    if (value == null) {
      return otherwise;
    }
    if (!value.isIntegralNumber() || !value.canConvertToLong()) {
      throw wrong(key, "an integer");
    }
    return value.longValue();
  }

  private double number(String key, double otherwise, double least, double most) {
    JsonNode value = value(key);
    if (value == null) {
      return otherwise;
    }
    double number = toNumber(value);
    if (!(number >= least && number <= most)) {
      throw wrong(key, "a number of " + plain(least) + " to " + plain(most));
    }
    return number;
  }

  private double positive(String key, double otherwise, double most) {
    double number = number(key, otherwise, 0, most);
    if (number == 0) {
      throw wrong(key, "a number above 0 and at most " + plain(most));
    }
    return number;
  }

  private double probability(String key, double otherwise) {
    double number = number(key, otherwise, 0, 1);
    if (number == 1) {
      throw wrong(key, "a number from 0 to below 1");
    }
    return number;
  }

  /** YAML 1.1 takes 2e-4, without a dot, for a text; people mean the number. */
  private static double toNumber(JsonNode value) {
    if (value.isNumber()) {
      return value.doubleValue();
    }
    if (value.isTextual()
        && value.textValue().matches("[+-]?(\\d+\\.?\\d*|\\.\\d+)([eE][+-]?\\d+)?")) {
      return Double.parseDouble(value.textValue());
    }
    return Double.NaN;
  }

  private static String plain(double number) {
    return number == Math.rint(number) && Math.abs(number) < 1e15
        ? Long.toString((long) number)
        : Double.toString(number);
  }

  private <T> T choice(String key, T otherwise, Map<String, T> choices) {
    List<String> names = choices.keySet().stream().sorted().toList();
    return choice(key, otherwise, choices, "one of " + String.join(", ", names));
  }

  private <T> T choice(String key, T otherwise, Map<String, T> choices, String expected) {
    JsonNode value = value(key);
    if (value == null) {
      return otherwise;
    }
    T chosen = choices.get(value.isValueNode() ? value.asText().toLowerCase(Locale.ROOT) : "");
    if (chosen == null) {
      throw wrong(key, expected);
    }
    return chosen;
  }

  private InputException missing(String key, String expected) {
    return new InputException(
        source + ": " + key + ": expected " + expected + ", found no such key");
  }

  private InputException wrong(String key, String expected) {
    String name = writtenAs.getOrDefault(key, key);
    JsonNode value = values.get(key);
    return new InputException(
        source
            + ": "
            + name
            + ": expected "
            + expected
            + ", found "
            + (value == null ? "nothing" : found(value)));
  }

  private static String found(JsonNode value) {
    return value.isValueNode() ? Text.quote(value.asText()) : Json.kind(value);
  }
}
