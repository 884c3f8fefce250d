// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.kernels.DType;

/**
 * What the decoder needs to know of a model, read from a Hugging Face {@code config.json}. {@link
 * ModelConfigReader} says which architecture has what, {@link WeightNames} how its tensors are
 * called; nothing else asks for the architecture.
 *
 * @param architecture the table of tensor names
 * @param vocabSize rows of the embedding and of the head
 * @param hiddenSize width of the residual stream
 * @param layers number of decoder blocks
 * @param heads query heads
 * @param kvHeads key/value heads; divides `heads`
 * @param headDim width of a head, even
 * @param ffnSize width inside the MLP
 * @param norm kind of all norms
 * @param normEps their epsilon
 * @param queryKeyNorm whether every head's query and key is normalised before it is rotated
 * @param outputNorms whether attention and MLP have norms behind them too, before the residual is
 *     added
 * @param parallelResidual x + attention(norm1(x)) + mlp(norm2(x)) instead of one after the other
 * @param activation of the MLP
 * @param mlp which linears the MLP has
 * @param qkv which linears make queries, keys and values
 * @param layerAttention window and rotary embedding of every layer
 * @param attentionScale factor on the scores, usually 1 / sqrt(headDim)
 * @param attentionSoftcap c of the scores' c * tanh(score / c), or 0: scores as they are
 * @param qkvBias whether q, k and v have biases
 * @param attentionOutputBias whether the attention's output has a bias
 * @param mlpBias whether the MLP's linears have biases
 * @param embeddingScale factor on the embedding's rows, rounded to the compute type where it is
 *     used
 * @param logitSoftcap c of the logits' c * tanh(logit / c), or 0: logits as they are
 * @param tiedHead whether the head is the embedding
 * @param maxPositions longest sequence the model was made for
 * @param bosId beginning-of-sequence token, or null
 * @param eosIds end-of-sequence tokens, the first being the one to train; may be empty
 * @param padId padding token, or null; never used to mask anything
 * @param initializerRange standard deviation of random initial weights
 * @param dtype type the weights are stored in as the config says, or null
 */
public record ModelConfig(
    Architecture architecture,
    int vocabSize,
    int hiddenSize,
    int layers,
    int heads,
    int kvHeads,
    int headDim,
    int ffnSize,
    Norm norm,
    float normEps,
    boolean queryKeyNorm,
    boolean outputNorms,
    boolean parallelResidual,
    Activation activation,
    Mlp mlp,
    Qkv qkv,
    List<LayerAttention> layerAttention,
    float attentionScale,
    float attentionSoftcap,
    boolean qkvBias,
    boolean attentionOutputBias,
    boolean mlpBias,
    float embeddingScale,
    float logitSoftcap,
    boolean tiedHead,
    int maxPositions,
    @Nullable Integer bosId,
    List<Integer> eosIds,
    @Nullable Integer padId,
    double initializerRange,
    @Nullable DType dtype) {

  /** Architectures that can be read, in the order messages list them. */
  public enum Architecture {
    LLAMA("llama"),
    MISTRAL("mistral"),
    QWEN2("qwen2"),
    QWEN3("qwen3"),
    PHI3("phi3"),
    GEMMA2("gemma2"),
    GEMMA3("gemma3_text"),
    GPT_NEOX("gpt_neox");

    private final String modelType;

    Architecture(String modelType) {
      this.modelType = modelType;
    }

    /** The config's `model_type`. */
    public String modelType() {
      return modelType;
    }
  }

  /** Kind of the norms. */
  public enum Norm {
    /** weight * u / rms(u). */
    RMS_NORM,
    /** (1 + weight) * u / rms(u). */
    RMS_NORM_UNIT_OFFSET,
    /** weight * (u - mean(u)) / deviation(u) + bias. */
    LAYER_NORM;

    /** The weight with which the norm scales nothing, which is the initial one. */
    public float neutralWeight() {
      return this == RMS_NORM_UNIT_OFFSET ? 0 : 1;
    }
  }

  /** Activation of the MLP. */
  public enum Activation {
    SILU,
    GELU_ERF,
    GELU_TANH
  }

  /** Linears of the MLP. */
  public enum Mlp {
    /** down(act(up(x))). */
    PLAIN,
    /** down(act(gate(x)) * up(x)). */
    GATED,
    /** The same with gate and up in one linear, its output [gate | up]. */
    GATED_FUSED
  }

  /** Linears that make queries, keys and values. */
  public enum Qkv {
    /** One each. */
    SEPARATE,
    /** One together, its output [q | k | v] for every head. */
    FUSED_PER_HEAD,
    /** One together, its output [q of all heads | k of all heads | v of all heads]. */
    FUSED
  }

  /**
   * What layers differ in.
   *
   * @param window last keys a query sees, itself included; 0: all
   * @param rotary the rotary embedding
   */
  public record LayerAttention(int window, RotaryConfig rotary) {}

  private static final long MAX_CONFIG_BYTES = 16 << 20;

  public ModelConfig {
    eosIds = List.copyOf(eosIds);
    layerAttention = List.copyOf(layerAttention);
    if (layerAttention.size() != layers) {
      throw new IllegalArgumentException(
          layers + " layers need an attention each, found " + layerAttention.size());
    }
    if (queryKeyNorm && qkv != Qkv.SEPARATE) {
      throw new IllegalArgumentException("query and key norms need separate projections");
    }
  }

  /** Reads `config.json` of a model directory. */
  public static ModelConfig read(Path modelDir) {
    if (!Files.isDirectory(modelDir)) {
      throw new InputException("no such model directory: " + modelDir);
    }
    Path file = modelDir.resolve("config.json");
    if (!Files.isRegularFile(file)) {
      throw new InputException(
          modelDir
              + ": expected a Hugging Face model directory with config.json, found no such file");
    }
    return readFile(file);
  }

  /** Reads a config from a file of any name. */
  public static ModelConfig readFile(Path file) {
    return parse(Json.readObject(file, MAX_CONFIG_BYTES), file.toString());
  }

  /** Parses a config; `source` says in messages where it came from. */
  public static ModelConfig parse(ObjectNode json, String source) {
    return new ModelConfigReader(json, source).read();
  }

  /** Width of all query heads together. */
  public int queryWidth() {
    return heads * headDim;
  }

  /** Width of all key (or value) heads together. */
  public int kvWidth() {
    return kvHeads * headDim;
  }

  /**
   * Whether a sequence that grows from {@code held} to {@code tokens} tokens is rotated otherwise
   * from its first token on, so that keys kept of the shorter one cannot be used.
   */
  public boolean rotatesOtherwise(int held, int tokens) {
    return layerAttention.stream()
        .mapToInt(layer -> layer.rotary().shortContext())
        .anyMatch(context -> held <= context && tokens > context);
  }
}
