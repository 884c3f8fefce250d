// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.quant.QuantizedTensors;

/**
 * The table from the block's parts to a checkpoint's tensor names and shapes. A part's path is the
 * module path that transformers, and so PEFT, uses; its tensors are {@code <path>.weight} and
 * {@code <path>.bias}.
 */
public final class WeightNames {

  /**
   * The parts of a decoder. A model has QUERY, KEY and VALUE or QUERY_KEY_VALUE; UP, with GATE
   * where the MLP is gated, or GATE_UP; the norms behind attention and MLP and those of queries and
   * keys only where its config has them.
   */
  public enum Part {
    EMBEDDING(false, false),
    ATTENTION_NORM(true, false),
    QUERY(true, true),
    KEY(true, true),
    VALUE(true, true),
    QUERY_KEY_VALUE(true, true),
    QUERY_NORM(true, false),
    KEY_NORM(true, false),
    ATTENTION_OUTPUT(true, true),
    ATTENTION_OUTPUT_NORM(true, false),
    MLP_NORM(true, false),
    GATE(true, true),
    UP(true, true),
    GATE_UP(true, true),
    DOWN(true, true),
    MLP_OUTPUT_NORM(true, false),
    FINAL_NORM(false, false),
    HEAD(false, false);

    private final boolean perLayer;
    private final boolean linear;

    Part(boolean perLayer, boolean linear) {
      this.perLayer = perLayer;
      this.linear = linear;
    }

    /** Whether every layer has one. */
    public boolean perLayer() {
      return perLayer;
    }

    /** Whether it is a linear inside a block, which is what quantization and LoRA apply to. */
    public boolean linear() {
      return linear;
    }
  }

  /**
   * One module of the model.
   *
   * @param part what it is
   * @param layer its layer from 0, or -1 outside the layers
   * @param path its module path, for example "model.layers.0.self_attn.q_proj"
   * @param shape of its weight: [out, in] for linears, [vocab, hidden] for the embedding and head,
   *     [n] for norms
   * @param hasBias whether it has a bias of shape [shape[0]]
   */
  public record Module(Part part, int layer, String path, List<Long> shape, boolean hasBias) {
    /** Name of the weight's tensor. */
    public String weight() {
      return path + ".weight";
    }

    /** Name of the bias's tensor. */
    public String bias() {
      return path + ".bias";
    }

    /** Last component of the path, what users write in target_modules. */
    public String shortName() {
      return path.substring(path.lastIndexOf('.') + 1);
    }

    /** Out features: rows of the weight. */
    public long rows() {
      return shape.get(0);
    }

    /** In features: columns of the weight; 1 for norms. */
    public long cols() {
      return shape.size() > 1 ? shape.get(1) : 1;
    }

    /** Elements of weight and bias. */
    public long parameters() {
      return rows() * cols() + (hasBias ? rows() : 0);
    }
  }

  private static final Map<Part, String> LLAMA =
      new EnumMap<>(
          Map.ofEntries(
              Map.entry(Part.EMBEDDING, "model.embed_tokens"),
              Map.entry(Part.ATTENTION_NORM, "model.layers.%d.input_layernorm"),
              Map.entry(Part.QUERY, "model.layers.%d.self_attn.q_proj"),
              Map.entry(Part.KEY, "model.layers.%d.self_attn.k_proj"),
              Map.entry(Part.VALUE, "model.layers.%d.self_attn.v_proj"),
              Map.entry(Part.ATTENTION_OUTPUT, "model.layers.%d.self_attn.o_proj"),
              Map.entry(Part.MLP_NORM, "model.layers.%d.post_attention_layernorm"),
              Map.entry(Part.GATE, "model.layers.%d.mlp.gate_proj"),
              Map.entry(Part.UP, "model.layers.%d.mlp.up_proj"),
              Map.entry(Part.DOWN, "model.layers.%d.mlp.down_proj"),
              Map.entry(Part.FINAL_NORM, "model.norm"),
              Map.entry(Part.HEAD, "lm_head")));

  private static final Map<Part, String> HEAD_NORMS =
      Map.of(
          Part.QUERY_NORM, "model.layers.%d.self_attn.q_norm",
          Part.KEY_NORM, "model.layers.%d.self_attn.k_norm");

  private static final Map<Part, String> QWEN3 = with(LLAMA, HEAD_NORMS);

  private static final Map<Part, String> PHI3 =
      with(
          without(LLAMA, Part.QUERY, Part.KEY, Part.VALUE, Part.GATE, Part.UP),
          Map.of(
              Part.QUERY_KEY_VALUE, "model.layers.%d.self_attn.qkv_proj",
              Part.GATE_UP, "model.layers.%d.mlp.gate_up_proj"));

  /** What Llama calls post_attention_layernorm comes before its MLP; here it is what it says. */
  private static final Map<Part, String> GEMMA2 =
      with(
          LLAMA,
          Map.of(
              Part.ATTENTION_OUTPUT_NORM, "model.layers.%d.post_attention_layernorm",
              Part.MLP_NORM, "model.layers.%d.pre_feedforward_layernorm",
              Part.MLP_OUTPUT_NORM, "model.layers.%d.post_feedforward_layernorm"));

  private static final Map<Part, String> GEMMA3 = with(GEMMA2, HEAD_NORMS);

  private static final Map<Part, String> GPT_NEOX =
      new EnumMap<>(
          Map.ofEntries(
              Map.entry(Part.EMBEDDING, "gpt_neox.embed_in"),
              Map.entry(Part.ATTENTION_NORM, "gpt_neox.layers.%d.input_layernorm"),
              Map.entry(Part.QUERY_KEY_VALUE, "gpt_neox.layers.%d.attention.query_key_value"),
              Map.entry(Part.ATTENTION_OUTPUT, "gpt_neox.layers.%d.attention.dense"),
              Map.entry(Part.MLP_NORM, "gpt_neox.layers.%d.post_attention_layernorm"),
              Map.entry(Part.UP, "gpt_neox.layers.%d.mlp.dense_h_to_4h"),
              Map.entry(Part.DOWN, "gpt_neox.layers.%d.mlp.dense_4h_to_h"),
              Map.entry(Part.FINAL_NORM, "gpt_neox.final_layer_norm"),
              Map.entry(Part.HEAD, "embed_out")));

  private final ModelConfig config;
  private final Map<Part, String> table;
  private final List<Module> modules;

  private WeightNames(ModelConfig config) {
    this.config = config;
    this.table = table(config.architecture());
    List<Module> all = new ArrayList<>();
    all.add(module(Part.EMBEDDING, -1));
    for (int layer = 0; layer < config.layers(); layer++) {
      for (Part part : Part.values()) {
        if (part.perLayer() && has(part)) {
          all.add(module(part, layer));
        }
      }
    }
    all.add(module(Part.FINAL_NORM, -1));
    if (!config.tiedHead()) {
      all.add(module(Part.HEAD, -1));
    }
    this.modules = List.copyOf(all);
  }

  private static Map<Part, String> table(ModelConfig.Architecture architecture) {
    return switch (architecture) {
      case LLAMA, MISTRAL, QWEN2 -> LLAMA;
      case QWEN3 -> QWEN3;
      case PHI3 -> PHI3;
      case GEMMA2 -> GEMMA2;
      case GEMMA3 -> GEMMA3;
      case GPT_NEOX -> GPT_NEOX;
    };
  }

  private static Map<Part, String> with(Map<Part, String> table, Map<Part, String> others) {
    Map<Part, String> changed = new EnumMap<>(table);
    changed.putAll(others);
    return changed;
  }

  private static Map<Part, String> without(Map<Part, String> table, Part... parts) {
    Map<Part, String> changed = new EnumMap<>(table);
    changed.keySet().removeAll(Set.of(parts));
    return changed;
  }

  /** Paths that the input embedding has, in one architecture or another. */
  public static Set<String> embeddings() {
    Set<String> paths = new LinkedHashSet<>();
    for (ModelConfig.Architecture architecture : ModelConfig.Architecture.values()) {
      paths.add(Objects.requireNonNull(table(architecture).get(Part.EMBEDDING)));
    }
    return paths;
  }

  /** The names for a config. */
  public static WeightNames of(ModelConfig config) {
    return new WeightNames(config);
  }

  /**
   * Whether the model has this part; a tied head is not one of its own, though `module(HEAD, -1)`
   * names it.
   */
  public boolean has(Part part) {
    return table.containsKey(part);
  }

  /** One module; `layer` is ignored for parts outside the layers. */
  public Module module(Part part, int layer) {
    String pattern = table.get(part);
    if (pattern == null) {
      throw new IllegalArgumentException(config.architecture() + " has no " + part);
    }
    long hidden = config.hiddenSize();
    List<Long> shape =
        switch (part) {
          case EMBEDDING, HEAD -> List.of((long) config.vocabSize(), hidden);
          case ATTENTION_NORM, ATTENTION_OUTPUT_NORM, MLP_NORM, MLP_OUTPUT_NORM, FINAL_NORM ->
              List.of(hidden);
          case QUERY_NORM, KEY_NORM -> List.of((long) config.headDim());
          case QUERY -> List.of((long) config.queryWidth(), hidden);
          case KEY, VALUE -> List.of((long) config.kvWidth(), hidden);
          case QUERY_KEY_VALUE ->
              List.of((long) config.queryWidth() + 2L * config.kvWidth(), hidden);
          case ATTENTION_OUTPUT -> List.of(hidden, (long) config.queryWidth());
          case GATE, UP -> List.of((long) config.ffnSize(), hidden);
          case GATE_UP -> List.of(2L * config.ffnSize(), hidden);
          case DOWN -> List.of(hidden, (long) config.ffnSize());
        };
    boolean bias =
        switch (part) {
          case EMBEDDING, HEAD -> false;
          case ATTENTION_NORM,
              QUERY_NORM,
              KEY_NORM,
              ATTENTION_OUTPUT_NORM,
              MLP_NORM,
              MLP_OUTPUT_NORM,
              FINAL_NORM ->
              config.norm() == ModelConfig.Norm.LAYER_NORM;
          case QUERY, KEY, VALUE, QUERY_KEY_VALUE -> config.qkvBias();
          case ATTENTION_OUTPUT -> config.attentionOutputBias();
          case GATE, UP, GATE_UP, DOWN -> config.mlpBias();
        };
    return new Module(
        part,
        part.perLayer() ? layer : -1,
        pattern.replace("%d", Integer.toString(layer)),
        shape,
        bias);
  }

  /** All modules in the order data flows through them; a tied head is left out. */
  public List<Module> modules() {
    return modules;
  }

  /** The linears inside the blocks, without the head. */
  public List<Module> linears() {
    return modules.stream().filter(module -> module.part().linear()).toList();
  }

  /** Number of parameters, a tied head counted once. */
  public long parameters() {
    return modules.stream().mapToLong(Module::parameters).sum();
  }

  /**
   * Checks that a checkpoint has every tensor in the shape the config says, in a floating-point
   * type, and no weight that the model would leave unused.
   */
  public void check(ModelCheckpoint checkpoint) {
    Set<String> used = new LinkedHashSet<>();
    for (Module module : modules) {
      if (isQuantized(checkpoint, module)) {
        used.add(quantized(checkpoint, module).codes().name());
      } else {
        used.add(weight(checkpoint, module).name());
      }
      TensorSource bias = bias(checkpoint, module);
      if (bias != null) {
        used.add(bias.name());
      }
    }
    for (String name : checkpoint.names()) {
      if (!used.contains(name)
          && !ignorable(name)
          && !QuantizedTensors.isSideTensor(checkpoint, name)) {
        throw new InputException(
            checkpoint.directory()
                + ": tensor "
                + Text.quote(name)
                + " has no place in a "
                + config.architecture().modelType()
                + " model of "
                + config.layers()
                + " layers as config.json describes it");
      }
    }
  }

  /** Whether the checkpoint holds the module's weight in 4 or 8 bits. */
  public static boolean isQuantized(ModelCheckpoint checkpoint, Module module) {
    return module.part().linear() && QuantizedTensors.isQuantized(checkpoint, module.weight());
  }

  /** A module's weight in 4 or 8 bits, checked. */
  public QuantizedTensors quantized(ModelCheckpoint checkpoint, Module module) {
    QuantizedTensors tensors = QuantizedTensors.of(checkpoint, module.weight());
    if (tensors.rows() != module.rows() || tensors.cols() != module.cols()) {
      throw new InputException(
          tensors.codes().file()
              + ": tensor "
              + Text.quote(module.weight())
              + ": expected the shape "
              + module.shape()
              + " from config.json, found ["
              + tensors.rows()
              + ", "
              + tensors.cols()
              + "] in its quantization state");
    }
    return tensors;
  }

  /**
   * A module's weight, its shape and type checked. A tied embedding may be stored under the head's
   * name.
   */
  public TensorSource weight(ModelCheckpoint checkpoint, Module module) {
    TensorSource tensor = checkpoint.find(module.weight());
    if (tensor == null
        && config.tiedHead()
        && (module.part() == Part.EMBEDDING || module.part() == Part.HEAD)) {
      Part other = module.part() == Part.EMBEDDING ? Part.HEAD : Part.EMBEDDING;
      tensor = checkpoint.find(module(other, -1).weight());
    }
    if (tensor == null) {
      String hint =
          module.part() == Part.HEAD
              ? "; if the head shares the embedding, config.json must say tie_word_embeddings: true"
              : "";
      throw new InputException(
          checkpoint.directory()
              + ": expected a tensor "
              + Text.quote(module.weight())
              + ", found none"
              + hint);
    }
    checkTensor(tensor, module.shape());
    return tensor;
  }

  /** A module's bias, checked, or null where the module has none. */
  public @Nullable TensorSource bias(ModelCheckpoint checkpoint, Module module) {
    if (!module.hasBias()) {
      return null;
    }
    TensorSource tensor = checkpoint.tensor(module.bias());
    checkTensor(tensor, List.of(module.rows()));
    return tensor;
  }

  private static void checkTensor(TensorSource tensor, List<Long> expected) {
    long[] shape = tensor.shape();
    boolean same = shape.length == expected.size();
    for (int i = 0; same && i < shape.length; i++) {
      same = shape[i] == expected.get(i);
    }
    if (!same) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + ": expected the shape "
              + expected
              + " from config.json, found "
              + Arrays.toString(shape));
    }
    StoredType type = tensor.storedType();
    if (type != StoredType.F32 && type != StoredType.BF16 && type != StoredType.F16) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + ": expected F32, BF16 or F16, found "
              + type);
    }
  }

  /**
   * Buffers that older checkpoints carry and nothing reads, and the second copy of a tied weight.
   */
  private boolean ignorable(String name) {
    return name.endsWith(".rotary_emb.inv_freq")
        || name.endsWith(".attention.bias")
        || name.endsWith(".attention.masked_bias")
        || (config.tiedHead() && name.equals(module(Part.HEAD, -1).weight()));
  }
}
