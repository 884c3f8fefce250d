// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.function.IntPredicate;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.model.ModelConfig.Activation;
import org.qlora4j.model.ModelConfig.Architecture;
import org.qlora4j.model.ModelConfig.LayerAttention;
import org.qlora4j.model.ModelConfig.Mlp;
import org.qlora4j.model.ModelConfig.Norm;
import org.qlora4j.model.ModelConfig.Qkv;
import org.qlora4j.quant.FloatEncoding;

/**
 * Reads a {@link ModelConfig} from a Hugging Face config, and is the one place that says what an
 * architecture has: a method each, which sets what differs from Llama. A value that a key of the
 * config would give but that is missing is the default of transformers' class of that architecture.
 */
final class ModelConfigReader {
  private static final int MAX_DIMENSION = 1 << 24;
  private static final int MAX_LAYERS = 4096;

  private final ConfigKeys keys;

  ModelConfigReader(ObjectNode json, String source) {
    this.keys = new ConfigKeys(json, source);
  }

  ModelConfig read() {
    String modelType = keys.text("model_type", null);
    checkQuantization();
    Architecture architecture =
        Arrays.stream(Architecture.values())
            .filter(a -> a.modelType().equals(modelType))
            .findFirst()
            .orElseThrow(() -> keys.wrongText("model_type", known(), modelType));
    ModelConfigBuilder config = new ModelConfigBuilder(architecture);
    switch (architecture) {
      case LLAMA -> llama(config);
      case MISTRAL -> mistral(config);
      case QWEN2 -> qwen2(config);
      case QWEN3 -> qwen3(config);
      case PHI3 -> phi3(config);
      case GEMMA2 -> gemma2(config);
      case GEMMA3 -> gemma3(config);
      case GPT_NEOX -> gptNeox(config);
    }
    return config.build();
  }

  private static String known() {
    List<String> types = Arrays.stream(Architecture.values()).map(Architecture::modelType).toList();
    return types.stream().limit(types.size() - 1L).collect(Collectors.joining(", "))
        + " or "
        + types.get(types.size() - 1);
  }

  // ---------------------------------------------------------------- the architectures

  private void llama(ModelConfigBuilder c) {
    sizes(c, 0);
    tokens(c, 1, List.of(2), null);
    int parallel = keys.integer("pretraining_tp", 1, 0, MAX_DIMENSION);
    if (parallel > 1) {
      throw keys.wrong("pretraining_tp", "1", String.valueOf(parallel));
    }
    c.normEps = epsilon("rms_norm_eps", 1e-6);
    c.activation = activation("hidden_act", "silu");
    c.qkvBias = keys.bool("attention_bias", false);
    c.attentionOutputBias = c.qkvBias;
    c.mlpBias = keys.bool("mlp_bias", false);
    c.maxPositions = maxPositions(2048);
    c.layerAttention = everyLayer(c, 0, sharedRotary(c));
  }

  /** Llama with a sliding window in every layer. */
  private void mistral(ModelConfigBuilder c) {
    sizes(c, 0);
    tokens(c, 1, List.of(2), null);
    c.normEps = epsilon("rms_norm_eps", 1e-6);
    c.activation = activation("hidden_act", "silu");
    c.maxPositions = maxPositions(131072);
    c.layerAttention = everyLayer(c, slidingWindow(4096), sharedRotary(c));
  }

  /**
   * Llama with biases on q, k and v; a sliding window in the last layers where it is switched on.
   */
  private void qwen2(ModelConfigBuilder c) {
    sizes(c, 0);
    tokens(c, null, List.of(), null);
    c.normEps = epsilon("rms_norm_eps", 1e-6);
    c.activation = activation("hidden_act", "silu");
    c.qkvBias = true;
    c.maxPositions = maxPositions(32768);
    c.layerAttention = qwenLayers(c);
  }

  /** Qwen2 without those biases, and with norms on every head's query and key. */
  private void qwen3(ModelConfigBuilder c) {
    sizes(c, 128);
    tokens(c, null, List.of(), null);
    c.normEps = epsilon("rms_norm_eps", 1e-6);
    c.queryKeyNorm = true;
    c.activation = activation("hidden_act", "silu");
    c.qkvBias = keys.bool("attention_bias", false);
    c.attentionOutputBias = c.qkvBias;
    c.maxPositions = maxPositions(32768);
    c.layerAttention = qwenLayers(c);
  }

  private List<LayerAttention> qwenLayers(ModelConfigBuilder c) {
    int window = keys.bool("use_sliding_window", false) ? slidingWindow(4096) : 0;
    int firstSliding = keys.integer("max_window_layers", 28, 0, Integer.MAX_VALUE);
    RotaryConfig rotary = sharedRotary(c);
    return mixedLayers(c, layer -> window > 0 && layer >= firstSliding, window, rotary, rotary);
  }

  /** Mistral with q, k and v in one linear, gate and up in another; some with LongRoPE. */
  private void phi3(ModelConfigBuilder c) {
    sizes(c, 0);
    tokens(c, 1, List.of(32000), 32000);
    noDropout("resid_pdrop");
    noDropout("embd_pdrop");
    c.normEps = epsilon("rms_norm_eps", 1e-5);
    c.activation = activation("hidden_act", "silu");
    c.mlp = Mlp.GATED_FUSED;
    c.qkv = Qkv.FUSED;
    c.maxPositions = maxPositions(4096);
    RotaryConfig rotary =
        new RotaryReader(
                keys, c.headDim, c.maxPositions, Set.of("default", "longrope", "su", "yarn"))
            .shared("rope_theta", "partial_rotary_factor", 1);
    c.layerAttention = everyLayer(c, slidingWindow(0), rotary);
  }

  /**
   * Norms of 1 + weight before and behind attention and MLP, a scaled embedding, soft caps on
   * scores and logits, every other layer with a sliding window.
   */
  private void gemma2(ModelConfigBuilder c) {
    gemma(c, 50, 30);
    c.maxPositions = maxPositions(8192);
    RotaryConfig rotary = sharedRotary(c);
    c.layerAttention = mixedLayers(c, layer -> layer % 2 == 0, slidingWindow(4096), rotary, rotary);
  }

  /**
   * Gemma 2 with norms on every head's query and key in place of the soft caps, five of six layers
   * with a sliding window, and a rotary embedding of their own for these.
   */
  private void gemma3(ModelConfigBuilder c) {
    gemma(c, 0, 0);
    c.queryKeyNorm = true;
    c.maxPositions = maxPositions(131072);
    String patternKey =
        keys.hasValue("sliding_window_pattern")
            ? "sliding_window_pattern"
            : "_sliding_window_pattern";
    int pattern = keys.integer(patternKey, 6, 1, MAX_LAYERS);
    RotaryReader rotary = new RotaryReader(keys, c.headDim, c.maxPositions, RotaryReader.USUAL);
    c.layerAttention =
        mixedLayers(
            c,
            layer -> (layer + 1) % pattern != 0,
            slidingWindow(4096),
            rotary.ofLayerType("full_attention", "rope_theta", 1e6, "rope_scaling"),
            rotary.ofLayerType("sliding_attention", "rope_local_base_freq", 1e4, null));
  }

  private void gemma(ModelConfigBuilder c, double attentionSoftcap, double logitSoftcap) {
    sizes(c, 256);
    tokens(c, 2, List.of(1), 0);
    if (keys.bool("use_bidirectional_attention", false)) {
      throw keys.wrong("use_bidirectional_attention", "false", "true");
    }
    c.norm = Norm.RMS_NORM_UNIT_OFFSET;
    c.normEps = epsilon("rms_norm_eps", 1e-6);
    c.outputNorms = true;
    c.activation = activation("hidden_activation", "gelu_pytorch_tanh");
    c.attentionScale =
        (float) (1 / Math.sqrt(keys.number("query_pre_attn_scalar", 256, 1e-6, MAX_DIMENSION)));
    c.attentionSoftcap = softcap("attn_logit_softcapping", attentionSoftcap);
    c.logitSoftcap = softcap("final_logit_softcapping", logitSoftcap);
    c.qkvBias = keys.bool("attention_bias", false);
    c.attentionOutputBias = c.qkvBias;
    c.embeddingScale = (float) Math.sqrt(c.hiddenSize);
    c.tiedHead = keys.bool("tie_word_embeddings", true);
  }

  /** LayerNorm, an MLP without gate, biases, half-rotated heads, often a parallel residual. */
  private void gptNeox(ModelConfigBuilder c) {
    sizes(c, 0);
    tokens(c, 0, List.of(2), null);
    noDropout("hidden_dropout");
    c.kvHeads = c.heads;
    c.norm = Norm.LAYER_NORM;
    c.normEps = epsilon("layer_norm_eps", 1e-5);
    c.parallelResidual = keys.bool("use_parallel_residual", true);
    c.activation = activation("hidden_act", "gelu");
    c.mlp = Mlp.PLAIN;
    c.qkv = Qkv.FUSED_PER_HEAD;
    c.qkvBias = keys.bool("attention_bias", true);
    c.attentionOutputBias = c.qkvBias;
    c.mlpBias = true;
    c.maxPositions = maxPositions(2048);
    RotaryConfig rotary =
        new RotaryReader(keys, c.headDim, c.maxPositions, RotaryReader.USUAL)
            .shared("rotary_emb_base", "rotary_pct", 0.25);
    c.layerAttention = everyLayer(c, 0, rotary);
  }

  // ---------------------------------------------------------------- what several share

  /**
   * Shapes, and what goes by the same key everywhere.
   *
   * @param defaultHeadDim of the architecture, or 0: hidden_size / num_attention_heads
   */
  private void sizes(ModelConfigBuilder c, int defaultHeadDim) {
    c.hiddenSize = keys.integer("hidden_size", 0, 1, MAX_DIMENSION);
    c.vocabSize = keys.integer("vocab_size", 0, 1, MAX_DIMENSION);
    c.layers = keys.integer("num_hidden_layers", 0, 1, MAX_LAYERS);
    c.heads = keys.integer("num_attention_heads", 0, 1, MAX_DIMENSION);
    c.headDim = headDim(c.hiddenSize, c.heads, defaultHeadDim);
    c.kvHeads = kvHeads(c.heads);
    c.ffnSize = keys.integer("intermediate_size", 0, 1, MAX_DIMENSION);
    c.attentionScale = (float) (1 / Math.sqrt(c.headDim));
    c.tiedHead = keys.bool("tie_word_embeddings", false);
    c.initializerRange = keys.number("initializer_range", 0.02, 0, 10);
    c.dtype = storedType();
    noDropout("attention_dropout");
  }

  private void tokens(
      ModelConfigBuilder c, @Nullable Integer bos, List<Integer> eos, @Nullable Integer pad) {
    c.bosId = keys.token("bos_token_id", bos);
    c.eosIds = keys.tokens("eos_token_id", eos);
    c.padId = keys.token("pad_token_id", pad);
  }

  private RotaryConfig sharedRotary(ModelConfigBuilder c) {
    return new RotaryReader(keys, c.headDim, c.maxPositions, RotaryReader.USUAL)
        .shared("rope_theta", "partial_rotary_factor", 1);
  }

  private static List<LayerAttention> everyLayer(
      ModelConfigBuilder c, int window, RotaryConfig rotary) {
    return Collections.nCopies(c.layers, new LayerAttention(window, rotary));
  }

  /**
   * Layers with and without a sliding window, as layer_types says, or where that is missing {@code
   * sliding}.
   */
  private List<LayerAttention> mixedLayers(
      ModelConfigBuilder c,
      IntPredicate sliding,
      int window,
      RotaryConfig fullRotary,
      RotaryConfig slidingRotary) {
    List<String> types = keys.texts("layer_types");
    if (types != null && types.size() != c.layers) {
      throw keys.wrong(
          "layer_types", "a type for each of " + c.layers + " layers", types.size() + " types");
    }
    LayerAttention full = new LayerAttention(0, fullRotary);
    LayerAttention slides = new LayerAttention(window, slidingRotary);
    List<LayerAttention> layers = new ArrayList<>();
    for (int layer = 0; layer < c.layers; layer++) {
      String type =
          types != null
              ? types.get(layer)
              : sliding.test(layer) ? "sliding_attention" : "full_attention";
      switch (type) {
        case "full_attention" -> layers.add(full);
        case "sliding_attention" -> {
          if (window == 0) {
            throw keys.wrong("sliding_window", "a window, which some layers have", "none");
          }
          layers.add(slides);
        }
        default -> throw keys.wrongText("layer_types", "full_attention or sliding_attention", type);
      }
    }
    return layers;
  }

  /** The window, or 0 for null. */
  private int slidingWindow(int otherwise) {
    if (!keys.has("sliding_window")) {
      return otherwise;
    }
    return keys.hasValue("sliding_window")
        ? keys.integer("sliding_window", 0, 1, Integer.MAX_VALUE)
        : 0;
  }

  /** The cap, or 0 for null. */
  private float softcap(String key, double otherwise) {
    return keys.has(key) && !keys.hasValue(key)
        ? 0
        : (float) keys.number(key, otherwise, 1e-3, 1e6);
  }

  private int maxPositions(int otherwise) {
    return keys.integer("max_position_embeddings", otherwise, 1, Integer.MAX_VALUE);
  }

  private float epsilon(String key, double otherwise) {
    return (float) keys.number(key, otherwise, 0, 1);
  }

  /** Dropout inside the base, which transformers applies in training and this does not. */
  private void noDropout(String key) {
    double probability = keys.number(key, 0, 0, 1);
    if (probability > 0) {
      throw keys.wrong(
          key, "0, because only adapters have dropout (lora_dropout)", String.valueOf(probability));
    }
  }

  private int headDim(int hidden, int heads, int otherwise) {
    if (!keys.hasValue("head_dim") && otherwise == 0 && hidden % heads != 0) {
      throw keys.wrong(
          "num_attention_heads", "a divisor of hidden_size " + hidden, String.valueOf(heads));
    }
    int headDim = keys.integer("head_dim", otherwise == 0 ? hidden / heads : otherwise, 1, 4096);
    if (headDim % 2 != 0) {
      throw keys.wrong("head_dim", "an even number", String.valueOf(headDim));
    }
    if ((long) heads * headDim > MAX_DIMENSION) {
      throw keys.wrong(
          "num_attention_heads",
          "heads of together at most " + MAX_DIMENSION + " elements",
          heads + " of " + headDim);
    }
    return headDim;
  }

  private int kvHeads(int heads) {
    int kvHeads = keys.integer("num_key_value_heads", heads, 1, heads);
    if (heads % kvHeads != 0) {
      throw keys.wrong(
          "num_key_value_heads",
          "a divisor of num_attention_heads " + heads,
          String.valueOf(kvHeads));
    }
    return kvHeads;
  }

  private Activation activation(String key, String otherwise) {
    String name = keys.text(key, otherwise);
    return switch (name) {
      case "silu", "swish" -> Activation.SILU;
      case "gelu" -> Activation.GELU_ERF;
      case "gelu_new", "gelu_pytorch_tanh", "gelu_fast" -> Activation.GELU_TANH;
      default ->
          throw keys.wrongText(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or gelu_fast", name);
    };
  }

  private @Nullable DType storedType() {
    String key = keys.hasValue("dtype") ? "dtype" : "torch_dtype";
    if (!keys.hasValue(key)) {
      return null;
    }
    String name = keys.text(key, null);
    DType type = FloatEncoding.byConfigName(name);
    if (type == null) {
      throw keys.wrongText(key, "float32, bfloat16 or float16", name);
    }
    return type;
  }

  /**
   * Which tensors are in 4 or 8 bits, and how, is for the checkpoint to say; other ways of
   * quantizing are refused here.
   */
  private void checkQuantization() {
    ConfigKeys quantization = keys.object("quantization_config");
    if (quantization == null) {
      return;
    }
    String method = quantization.text("quant_method", "");
    boolean known = false;
    for (String key : List.of("load_in_4bit", "_load_in_4bit", "load_in_8bit", "_load_in_8bit")) {
      known |= quantization.bool(key, false);
    }
    if (!method.equals("bitsandbytes") || !known) {
      throw keys.wrongText("quantization_config", "none, or bitsandbytes in 4 or 8 bits", method);
    }
  }
}
