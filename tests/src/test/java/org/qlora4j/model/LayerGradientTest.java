// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.common.Json;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.lora.DoraMagnitude;
import org.qlora4j.lora.LoraLayer;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;
import org.qlora4j.tests.support.Philox;

/**
 * Every layer's forward and explicit backward against the same formula under libtorch autograd, in
 * fp32: output, gradient of the input, gradients of everything trained.
 *
 * <p>Error model: both sides accumulate in fp32 in different orders. With sums of up to 300 terms
 * and up to six products in a row, 2^-24 * sqrt(300) * 6 * 4 (the tail of thousands of elements) is
 * 2.5e-5 of the largest magnitude.
 */
class LayerGradientTest {
  private static final double TOLERANCE = 2.5e-5;
  private static final long SEED = 20260101;

  private KernelPack pack;
  private TensorArena arena;
  private ParameterSet parameters;
  private Pass pass;
  private Random random;
  private PointerScope scope;

  /** Whether the pack's attention is left aside, as with packs that have none. */
  private boolean libtorchAttention;

  private final Map<Parameter, Tensor> leaves = new LinkedHashMap<>();
  private final List<AutoCloseable> owned = new ArrayList<>();

  @BeforeEach
  void open() {
    pack = KernelPack.openAutomatic();
    arena = new TensorArena(pack);
    parameters = new ParameterSet(pack);
    pass = new Pass(pack, arena, DType.F32, LoraCompute.FAST, SEED, 3, 1, true);
    random = new Random(SEED);
    scope = new PointerScope();
  }

  @AfterEach
  void close() throws Exception {
    scope.close();
    leaves.clear();
    for (AutoCloseable part : owned) {
      part.close();
    }
    owned.clear();
    parameters.close();
    arena.close();
    pack.close();
  }

  // ---------------------------------------------------------------- the layers

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 37})
  void denseLinearWithBiasAndAdapter(int tokens) {
    Dense linear = dense("linear", 96, 80, true, 8, 0f);
    check(
        tokens,
        80,
        (x, y) -> linear.layer.forward(pass, x, null, y),
        (saved, dy, dx) -> linear.layer.backward(pass, (LinearLayer.Saved) saved, dy, dx, false),
        linear::torch,
        96);
  }

  @ParameterizedTest
  @CsvSource({"128, 0", "128, 0.25", "200, 0", "200, 0.25"}) // 200: blocks of 64 straddle rows
  void quantizedLinearWithAdapterAndDropout(int in, float dropout) {
    Dense linear = quantized("linear", 96, in, 8, dropout);
    check(
        21,
        in,
        (x, y) -> linear.layer.forward(pass, x, null, y),
        (saved, dy, dx) -> linear.layer.backward(pass, (LinearLayer.Saved) saved, dy, dx, false),
        linear::torch,
        96);
  }

  @ParameterizedTest
  @CsvSource({"INT8, 128, 0", "INT8, 77, 0.25", "FP8, 128, 0", "FP8, 77, 0.25"})
  void rowwiseLinearWithAdapterAndDropout(WeightFormat format, int in, float dropout) {
    Dense linear = rowwise("linear", format, 96, in, 8, dropout);
    check(
        21,
        in,
        (x, y) -> linear.layer.forward(pass, x, null, y),
        (saved, dy, dx) -> linear.layer.backward(pass, (LinearLayer.Saved) saved, dy, dx, false),
        linear::torch,
        96);
  }

  @ParameterizedTest
  @CsvSource({"0, 0", "1, 0", "37, 0", "37, 0.25"})
  void denseLinearWithBiasAndDora(int tokens, float dropout) {
    Dense linear = dora(dense("linear", 96, 80, true, 8, dropout));
    check(
        tokens,
        80,
        (x, y) -> linear.layer.forward(pass, x, null, y),
        (saved, dy, dx) -> linear.layer.backward(pass, (LinearLayer.Saved) saved, dy, dx, false),
        linear::torch,
        96);
  }

  /** Packed where the pack has an order of its own, so that the norms need the canonical one. */
  @ParameterizedTest
  @CsvSource({"NF4, 128, 0", "NF4, 200, 0.25", "INT8, 77, 0", "FP8, 128, 0.25"})
  void quantizedLinearWithDora(WeightFormat format, int in, float dropout) {
    Dense linear =
        dora(
            format == WeightFormat.NF4
                ? quantized("linear", 96, in, 8, dropout)
                : rowwise("linear", format, 96, in, 8, dropout));
    check(
        21,
        in,
        (x, y) -> {
          // The residual may be where the result goes, as in a block.
          y.zero();
          return linear.layer.forward(pass, x, y, y);
        },
        (saved, dy, dx) -> {
          dx.zero();
          linear.layer.backward(pass, (LinearLayer.Saved) saved, dy, dx, true);
        },
        linear::torch,
        96);
  }

  /** More rows than a strip has. */
  @Test
  void doraInStrips() {
    Dense linear = dora(quantized("linear", 3000, 320, 4, 0.25f));
    check(
        131,
        320,
        (x, y) -> linear.layer.forward(pass, x, null, y),
        (saved, dy, dx) -> linear.layer.backward(pass, (LinearLayer.Saved) saved, dy, dx, false),
        linear::torch,
        3000);
  }

  @Test
  void aDoraFollowsItsWeights() {
    Dense linear = dora(dense("linear", 32, 48, false, 4, 0f));
    DoraMagnitude dora = Objects.requireNonNull(Objects.requireNonNull(linear.lora).dora());
    linear.layer.initialiseMagnitudes(linear.lora, DType.F32);
    DeviceTensor x = randomTensor(5, 48);
    DeviceTensor y = arena.allocate(DType.F32, 5, 32);
    linear.layer.forward(pass, x, null, y);
    Tensor plain = linear.plain(TorchBridge.view(x));
    close("magnitudes that are the norms change nothing", floats(plain), y.toFloats());
    assertFalse(dora.isStale());
    linear.lora.b().value().zero();
    dora.invalidate();
    linear.layer.forward(pass, x, null, y);
    float[] norms = floats(linear.w.mul(linear.w).sum(1).sqrt());
    close("norms without b are those of the weight", norms, dora.norm().toFloats());
  }

  @ParameterizedTest
  @EnumSource(ModelConfig.Norm.class)
  void norm(ModelConfig.Norm kind) {
    Norm norm = norm("norm", kind, 72);
    check(
        19,
        72,
        (x, y) -> norm.layer.forward(pass, x, y),
        (saved, dy, dx) -> norm.layer.backward(pass, (NormLayer.Saved) saved, dy, null, dx),
        norm::torch,
        72);
  }

  @ParameterizedTest
  @EnumSource(Activation.Kind.class)
  void gatedFeedForward(Activation.Kind kind) {
    feedForward(kind, ModelConfig.Mlp.GATED);
  }

  @ParameterizedTest
  @EnumSource(Activation.Kind.class)
  void gatedFeedForwardOfOneLinear(Activation.Kind kind) {
    feedForward(kind, ModelConfig.Mlp.GATED_FUSED);
  }

  @ParameterizedTest
  @EnumSource(Activation.Kind.class)
  void plainFeedForwardWithBiases(Activation.Kind kind) {
    feedForward(kind, ModelConfig.Mlp.PLAIN);
  }

  private void feedForward(Activation.Kind kind, ModelConfig.Mlp mlp) {
    Ffn ffn = ffn("ffn", kind, mlp, 64, 160);
    check(
        23,
        64,
        (x, y) -> {
          DeviceTensor residual = arena.allocate(DType.F32, x.rows(), x.cols());
          residual.copyFrom(x);
          return ffn.layer.forward(pass, x, residual, y, KeptTensors.NONE);
        },
        (saved, dy, dx) -> {
          ffn.layer.backward(pass, (FeedForward.Saved) saved, dy, dx);
          TorchBridge.view(dx)
              .add_(TorchBridge.view(dy)); // the residual's gradient, which the block adds
        },
        x -> ffn.torch(x).add(x),
        64);
  }

  @ParameterizedTest
  @CsvSource({
    "llama, false",
    "llama, true",
    "gpt_neox, false",
    "gpt_neox, true",
    "mistral, false",
    "mistral, true",
    "qwen2, false",
    "qwen3, false",
    "phi3, false",
    "phi3, true",
    "phi3 longrope, false",
    "gemma2, false",
    "gemma3_text, false",
    "gemma3_text, true"
  })
  void attention(String modelType, boolean byLibtorch) {
    libtorchAttention = byLibtorch;
    ModelConfig config = config(modelType);
    int[] cu = {0, 9, 10, 31};
    Attend attend = attend("attention", config);
    SequenceBatch batch = batch(cu);
    check(
        31,
        config.hiddenSize(),
        (x, y) -> {
          DeviceTensor residual = arena.allocate(DType.F32, x.rows(), x.cols());
          residual.zero();
          return attend.layer.forward(pass, batch, x, residual, y, null, KeptTensors.NONE);
        },
        (saved, dy, dx) -> attend.layer.backward(pass, batch, (SelfAttention.Saved) saved, dy, dx),
        x -> attend.torch(x, cu),
        config.hiddenSize());
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma2",
        "gemma3_text",
        "gpt_neox",
        "gpt_neox sequential"
      })
  void block(String modelType) {
    ModelConfig config = config(modelType);
    int[] cu = {0, 17, 29};
    int hidden = config.hiddenSize();
    Norm norm1 = norm("norm1", config.norm(), hidden);
    Attend attend = attend("attention", config);
    Norm norm2 = norm("norm2", config.norm(), hidden);
    Ffn ffn = ffn("ffn", kind(config), config.mlp(), hidden, config.ffnSize());
    Norm norm3 = config.outputNorms() ? norm("norm3", config.norm(), hidden) : null;
    Norm norm4 = config.outputNorms() ? norm("norm4", config.norm(), hidden) : null;
    DecoderBlock block =
        new DecoderBlock(
            config.parallelResidual(),
            norm1.layer,
            attend.layer,
            norm2.layer,
            ffn.layer,
            norm3 == null || norm4 == null
                ? null
                : new DecoderBlock.OutputNorms(norm3.layer, norm4.layer),
            List.of());
    SequenceBatch batch = batch(cu);
    check(
        29,
        config.hiddenSize(),
        (x, y) -> block.forward(pass, batch, x, y, null, KeptTensors.NONE),
        (saved, dy, dx) -> block.backward(pass, batch, (DecoderBlock.Saved) saved, dy, dx),
        x -> {
          Tensor attended = attend.torch(norm1.torch(x), cu);
          Tensor middle = (norm3 == null ? attended : norm3.torch(attended)).add(x);
          Tensor fed = ffn.torch(norm2.torch(config.parallelResidual() ? x : middle));
          return (norm4 == null ? fed : norm4.torch(fed)).add(middle);
        },
        config.hiddenSize());
  }

  @ParameterizedTest
  @CsvSource({"0, 0, 0", "0, 0.1, 0", "0, 0, 0.003", "0, 0.3, 0.01", "3, 0, 0", "3, 0.3, 0.01"})
  void lossHead(float softcap, double smoothing, double zLoss) {
    Norm norm = norm("norm", ModelConfig.Norm.RMS_NORM, 64);
    Dense head = dense("head", 150, 64, false, 0, 0f);
    LossHead lossHead = new LossHead(norm.layer, head.layer, softcap);
    int tokens = 26;
    int[] labels = new int[tokens];
    for (int i = 0; i < tokens; i++) {
      labels[i] = i % 3 == 0 ? -100 : random.nextInt(150);
    }
    parameters.allocateGradients();
    DeviceTensor x = randomTensor(tokens, 64);
    DeviceTensor dx = arena.allocate(DType.F32, tokens, 64);
    Regularization regularization = new Regularization(smoothing, zLoss, 0);
    double loss = lossHead.loss(pass, x, labels, 0.125f, 5, regularization, dx);

    Tensor leaf = leaf(x);
    Tensor logits = capped(head.torch(norm.torch(leaf)), softcap);
    DeviceTensor deviceLabels = arena.allocate(DType.I32, tokens);
    deviceLabels.copyFrom(labels);
    Tensor sum =
        torch.cross_entropy_loss(
            logits,
            TorchBridge.view(deviceLabels).to(ScalarType.Long),
            new org.bytedeco.pytorch.TensorOptional(),
            2, // sum
            -100,
            smoothing);
    Tensor labelled = TorchBridge.view(deviceLabels).ge(new Scalar(0)).to(ScalarType.Float);
    Tensor normalizer = torch.logsumexp(logits, new long[] {1}, false);
    sum = sum.add(normalizer.mul(normalizer).mul(labelled).sum().mul(new Scalar(zLoss)));
    sum.mul(new Scalar(0.125)).backward();
    close("loss", floats(sum), new float[] {(float) loss});
    close("dx", floats(leaf.grad()), dx.toFloats());
    parameterGradients();
  }

  // ---------------------------------------------------------------- layers with their formula in
  // libtorch

  private final class Dense {
    final LinearLayer layer;
    final Tensor w;
    final @Nullable Tensor bias;
    @Nullable LoraLayer lora;
    final int number;

    Dense(
        LinearLayer layer, int number, Tensor w, @Nullable Tensor bias, @Nullable LoraLayer lora) {
      this.layer = layer;
      this.number = number;
      this.w = w;
      this.bias = bias;
      this.lora = lora;
      layer.setLora(lora);
    }

    /** With PEFT's formula for DoRA: everything beside the base is an addition to it. */
    Tensor torch(Tensor x) {
      LoraLayer branch = lora;
      if (branch == null || branch.dora() == null) {
        return plain(x);
      }
      Tensor a = leaf(branch.a());
      Tensor b = leaf(branch.b());
      Scalar s = new Scalar((double) branch.scaling());
      Tensor adapted = w.detach().add(torch.matmul(b.detach(), a.detach()).mul(s));
      Tensor g =
          leaf(branch.dora().magnitude()).div(adapted.mul(adapted).sum(1).sqrt()).unsqueeze(0);
      Tensor dropped = branch.dropout() > 0 ? x.mul(mask(x, branch.dropout(), number)) : x;
      Tensor base = torch.matmul(dropped, w.detach().transpose(0, 1));
      Tensor update =
          torch.matmul(torch.matmul(dropped, a.transpose(0, 1)), b.transpose(0, 1)).mul(s);
      Tensor y = torch.matmul(x, w.detach().transpose(0, 1));
      if (bias != null) {
        y = y.add(bias);
      }
      return y.add(g.sub(new Scalar(1.0)).mul(base)).add(g.mul(update));
    }

    Tensor plain(Tensor x) {
      Tensor y = torch.matmul(x, w.transpose(0, 1));
      if (bias != null) {
        y = y.add(bias);
      }
      if (lora != null) {
        Tensor dropped = lora.dropout() > 0 ? x.mul(mask(x, lora.dropout(), number)) : x;
        Tensor xa = torch.matmul(dropped, leaf(lora.a()).transpose(0, 1));
        y =
            y.add(
                torch
                    .matmul(xa, leaf(lora.b()).transpose(0, 1))
                    .mul(new Scalar((double) lora.scaling())));
      }
      return y;
    }
  }

  /** The same with magnitudes of its own in the place of its plain branch. */
  private Dense dora(Dense linear) {
    LoraLayer plain = Objects.requireNonNull(linear.lora);
    int out = Math.toIntExact(linear.layer.out());
    Parameter magnitude = parameter(linear.layer.name() + ".m", 1, out);
    LoraLayer branch =
        new LoraLayer(
            plain.a(),
            plain.b(),
            plain.scaling(),
            plain.dropout(),
            new DoraMagnitude(magnitude, arena.allocate(DType.F32, out)));
    linear.lora = branch;
    linear.layer.setLora(branch);
    // What a DoRA adapts is frozen; its bias may be trained.
    linear.layer.train(
        null,
        parameters.parameters().stream()
            .filter(p -> p.name().equals(linear.layer.name() + ".bias"))
            .findFirst()
            .orElse(null));
    return linear;
  }

  private Dense dense(String name, int out, int in, boolean bias, int rank, float dropout) {
    Parameter weight = parameter(name + ".weight", 0.2, out, in);
    Parameter biasParameter = bias ? parameter(name + ".bias", 0.2, out) : null;
    LinearLayer layer =
        new LinearLayer(
            name,
            5,
            Weight.dense(weight.value()),
            biasParameter == null ? null : biasParameter.value());
    layer.train(weight, biasParameter);
    return new Dense(
        layer,
        5,
        leaf(weight),
        biasParameter == null ? null : leaf(biasParameter),
        lora(name, out, in, rank, dropout));
  }

  private Dense quantized(String name, int out, int in, int rank, float dropout) {
    QuantizedWeight weight =
        QuantizedWeight.quantize(pack, randomTensor(out, in), QuantizationConfig.nf4());
    owned.add(weight);
    DeviceTensor dequantized = arena.allocate(DType.F32, out, in);
    Quantization4Bit.dequantize(pack, weight.weight(), dequantized);
    weight.pack();
    LinearLayer layer = new LinearLayer(name, 7, weight.weight(), null);
    return new Dense(
        layer, 7, TorchBridge.view(dequantized), null, lora(name, out, in, rank, dropout));
  }

  private Dense rowwise(
      String name, WeightFormat format, int out, int in, int rank, float dropout) {
    QuantizationConfig config =
        format == WeightFormat.INT8 ? QuantizationConfig.int8(0) : QuantizationConfig.fp8();
    QuantizedWeight weight = QuantizedWeight.quantize(pack, randomTensor(out, in), config);
    owned.add(weight);
    DeviceTensor dequantized = arena.allocate(DType.F32, out, in);
    if (format == WeightFormat.INT8) {
      QuantizationInt8.dequantize(pack, weight.codes(), weight.absmax(), dequantized);
    } else {
      QuantizationFp8.dequantize(pack, weight.codes(), weight.absmax(), dequantized);
    }
    LinearLayer layer = new LinearLayer(name, 7, weight.weight(), null);
    return new Dense(
        layer, 7, TorchBridge.view(dequantized), null, lora(name, out, in, rank, dropout));
  }

  private @Nullable LoraLayer lora(String name, int out, int in, int rank, float dropout) {
    return rank == 0
        ? null
        : new LoraLayer(
            parameter(name + ".a", 0.3, rank, in),
            parameter(name + ".b", 0.3, out, rank),
            2f,
            dropout);
  }

  private record Norm(
      NormLayer layer, Tensor weight, @Nullable Tensor bias, ModelConfig.Norm kind) {
    Tensor torch(Tensor x) {
      if (bias != null) {
        return torch.layer_norm(
            x,
            new long[] {x.size(1)},
            new org.bytedeco.pytorch.TensorOptional(weight),
            new org.bytedeco.pytorch.TensorOptional(bias),
            1e-5,
            false);
      }
      Tensor meanSquare = x.mul(x).mean(new long[] {1}, true, new ScalarTypeOptional());
      Tensor normalised = x.mul(meanSquare.add(new Scalar(1e-5)).rsqrt());
      return kind == ModelConfig.Norm.RMS_NORM
          ? normalised.mul(weight)
          : normalised.mul(weight.add(new Scalar(1)));
    }
  }

  private Norm norm(String name, ModelConfig.Norm kind, int n) {
    Parameter weight = parameter(name + ".weight", 1, n);
    Parameter bias = kind == ModelConfig.Norm.LAYER_NORM ? parameter(name + ".bias", 1, n) : null;
    NormLayer layer =
        new NormLayer(kind, 1e-5f, weight.value(), bias == null ? null : bias.value());
    layer.train(weight, bias);
    return new Norm(layer, leaf(weight), bias == null ? null : leaf(bias), kind);
  }

  private static Tensor capped(Tensor x, float cap) {
    return cap == 0 ? x : torch.tanh(x.div(new Scalar(cap))).mul(new Scalar(cap));
  }

  private record Ffn(
      FeedForward layer,
      Activation.Kind kind,
      ModelConfig.Mlp mlp,
      List<Dense> expansion,
      Dense down) {
    Tensor torch(Tensor x) {
      Tensor first = expansion.get(0).torch(x);
      return switch (mlp) {
        case PLAIN -> down.torch(act(first));
        case GATED -> down.torch(act(first).mul(expansion.get(1).torch(x)));
        case GATED_FUSED -> {
          long ffn = first.size(1) / 2;
          yield down.torch(act(first.narrow(1, 0, ffn)).mul(first.narrow(1, ffn, ffn)));
        }
      };
    }

    private Tensor act(Tensor x) {
      return switch (kind) {
        case SILU -> torch.silu(x);
        case GELU_ERF -> torch.gelu(x, "none");
        case GELU_TANH -> torch.gelu(x, "tanh");
      };
    }
  }

  private Ffn ffn(String name, Activation.Kind kind, ModelConfig.Mlp mlp, int hidden, int ffn) {
    boolean plain = mlp == ModelConfig.Mlp.PLAIN;
    Dense down = dense(name + ".down", hidden, ffn, plain, 4, 0f);
    List<Dense> linears = new ArrayList<>();
    FeedForward.Expansion expansion;
    if (mlp == ModelConfig.Mlp.GATED_FUSED) {
      linears.add(dense(name + ".gate_up", 2 * ffn, hidden, false, 4, 0f));
      expansion = new FeedForward.GatedFused(linears.get(0).layer);
    } else if (plain) {
      linears.add(dense(name + ".up", ffn, hidden, true, 4, 0f));
      expansion = new FeedForward.Plain(linears.get(0).layer);
    } else {
      linears.add(dense(name + ".gate", ffn, hidden, false, 4, 0f));
      linears.add(dense(name + ".up", ffn, hidden, false, 4, 0f));
      expansion = new FeedForward.Gated(linears.get(0).layer, linears.get(1).layer);
    }
    return new Ffn(new FeedForward(kind, expansion, down.layer), kind, mlp, linears, down);
  }

  private record Attend(
      ModelConfig config,
      SelfAttention layer,
      List<Dense> projections,
      @Nullable Norm queryNorm,
      @Nullable Norm keyNorm,
      Dense output) {

    Tensor torch(Tensor x, int[] cu) {
      TensorVector parts = new TensorVector();
      for (int s = 0; s + 1 < cu.length; s++) {
        parts.push_back(sequence(x.narrow(0, cu[s], (long) cu[s + 1] - cu[s])));
      }
      return output.torch(torch.cat(parts, 0));
    }

    private Tensor sequence(Tensor x) {
      long t = x.size(0);
      long h = config.heads();
      long kv = config.kvHeads();
      long d = config.headDim();
      Tensor q;
      Tensor k;
      Tensor v;
      switch (config.qkv()) {
        case FUSED_PER_HEAD -> {
          Tensor qkv = projections.get(0).torch(x).reshape(t, h, 3 * d);
          q = qkv.narrow(2, 0, d);
          k = qkv.narrow(2, d, d);
          v = qkv.narrow(2, 2 * d, d);
        }
        case FUSED -> {
          Tensor qkv = projections.get(0).torch(x).reshape(t, h + 2 * kv, d);
          q = qkv.narrow(1, 0, h);
          k = qkv.narrow(1, h, kv);
          v = qkv.narrow(1, h + kv, kv);
        }
        default -> {
          q = normed(queryNorm, projections.get(0).torch(x).reshape(t, h, d));
          k = normed(keyNorm, projections.get(1).torch(x).reshape(t, kv, d));
          v = projections.get(2).torch(x).reshape(t, kv, d);
        }
      }
      q = rotate(q).transpose(0, 1);
      k = share(rotate(k).transpose(0, 1), h / kv);
      v = share(v.transpose(0, 1), h / kv);
      int window = config.layerAttention().get(0).window();
      Tensor unseen = torch.ones(t, t).triu(1);
      if (window > 0) {
        unseen = unseen.add(torch.ones(t, t).tril(-window));
      }
      Tensor scores =
          torch.matmul(q, k.transpose(1, 2)).mul(new Scalar((double) config.attentionScale()));
      scores =
          capped(scores, config.attentionSoftcap())
              .masked_fill(unseen.to(ScalarType.Bool), new Scalar(Double.NEGATIVE_INFINITY));
      return torch.matmul(torch.softmax(scores, 2), v).transpose(0, 1).reshape(t, h * d);
    }

    private static Tensor normed(@Nullable Norm norm, Tensor x) {
      return norm == null
          ? x
          : norm.torch(x.reshape(x.size(0) * x.size(1), x.size(2))).reshape(x.sizes());
    }

    /** [kv heads, t, d] for each of the query heads that share it. */
    private static Tensor share(Tensor x, long times) {
      return x.unsqueeze(1)
          .expand(x.size(0), times, x.size(1), x.size(2))
          .reshape(x.size(0) * times, x.size(1), x.size(2));
    }

    private Tensor rotate(Tensor x) {
      long t = x.size(0);
      RotaryConfig rotary = config.layerAttention().get(0).rotary();
      long half = rotary.dim() / 2;
      float[] frequencies = rotary.inverseFrequencies(31); // of the whole batch
      float[] cos = new float[(int) (t * half)];
      float[] sin = new float[(int) (t * half)];
      for (int i = 0; i < cos.length; i++) {
        int position = i / (int) half;
        float angle = position * frequencies[i % (int) half];
        cos[i] = (float) Math.cos(angle) * rotary.attentionFactor();
        sin[i] = (float) Math.sin(angle) * rotary.attentionFactor();
      }
      Tensor c = torch.tensor(cos).reshape(t, 1, half);
      Tensor s = torch.tensor(sin).reshape(t, 1, half);
      Tensor x1 = x.narrow(2, 0, half);
      Tensor x2 = x.narrow(2, half, half);
      Tensor rest = x.narrow(2, 2 * half, x.size(2) - 2 * half);
      TensorVector parts = new TensorVector();
      parts.push_back(x1.mul(c).add(x2.mul(s).neg()));
      parts.push_back(x2.mul(c).add(x1.mul(s)));
      parts.push_back(rest);
      return torch.cat(parts, 2);
    }
  }

  private Attend attend(String name, ModelConfig config) {
    int hidden = config.hiddenSize();
    int width = config.queryWidth();
    boolean bias = config.qkvBias();
    RotaryEmbedding rotary = new RotaryEmbedding(pack, config.layerAttention().get(0).rotary());
    owned.add(rotary);
    List<Dense> projections = new ArrayList<>();
    SelfAttention.Projection projection;
    if (config.qkv() != ModelConfig.Qkv.SEPARATE) {
      projections.add(dense(name + ".qkv", width + 2 * config.kvWidth(), hidden, bias, 4, 0f));
      projection = new SelfAttention.Fused(projections.get(0).layer);
    } else {
      projections.add(dense(name + ".q", width, hidden, bias, 4, 0f));
      projections.add(dense(name + ".k", config.kvWidth(), hidden, bias, 4, 0f));
      projections.add(dense(name + ".v", config.kvWidth(), hidden, bias, 4, 0f));
      projection =
          new SelfAttention.Separate(
              projections.get(0).layer, projections.get(1).layer, projections.get(2).layer);
    }
    Norm queryNorm = null;
    Norm keyNorm = null;
    SelfAttention.HeadNorms headNorms = null;
    if (config.queryKeyNorm()) {
      queryNorm = norm(name + ".q_norm", config.norm(), config.headDim());
      keyNorm = norm(name + ".k_norm", config.norm(), config.headDim());
      headNorms = new SelfAttention.HeadNorms(queryNorm.layer, keyNorm.layer);
    }
    Dense output = dense(name + ".o", hidden, width, config.attentionOutputBias(), 4, 0f);
    return new Attend(
        config,
        new SelfAttention(config, projection, headNorms, rotary, core(config), output.layer),
        projections,
        queryNorm,
        keyNorm,
        output);
  }

  private AttentionCore core(ModelConfig config) {
    Attention.Shape shape = SelfAttention.shape(config, 0);
    return libtorchAttention
        ? AttentionCore.byLibtorch(shape)
        : AttentionCore.of(pack, shape, config.attentionSoftcap());
  }

  // ---------------------------------------------------------------- comparison

  private interface Forward {
    Object run(DeviceTensor x, DeviceTensor y);
  }

  private interface Backward {
    void run(Object saved, DeviceTensor dy, DeviceTensor dx);
  }

  private interface Formula {
    Tensor of(Tensor x);
  }

  private void check(
      int tokens, int in, Forward forward, Backward backward, Formula formula, int out) {
    parameters.allocateGradients();
    DeviceTensor x = randomTensor(tokens, in);
    DeviceTensor dy = randomTensor(tokens, out);
    DeviceTensor y = arena.allocate(DType.F32, tokens, out);
    DeviceTensor dx = arena.allocate(DType.F32, tokens, in);
    Object saved = forward.run(x, y);
    backward.run(saved, dy, dx);

    Tensor leaf = leaf(x);
    Tensor expected = formula.of(leaf);
    if (tokens > 0) {
      expected.mul(TorchBridge.view(dy)).sum().backward();
      close("y", floats(expected), y.toFloats());
      close("dx", floats(leaf.grad()), dx.toFloats());
      parameterGradients();
    }
  }

  private void parameterGradients() {
    int compared = 0;
    for (Map.Entry<Parameter, Tensor> entry : leaves.entrySet()) {
      Tensor gradient = entry.getValue().grad();
      if (gradient.defined()) {
        compared++;
        close(entry.getKey().name(), floats(gradient), entry.getKey().gradient().toFloats());
      }
    }
    assertTrue(compared > 0, "nothing was trained");
  }

  private static void close(String name, float[] expected, float[] actual) {
    double largest = 0;
    for (float value : expected) {
      largest = Math.max(largest, Math.abs(value));
    }
    for (int i = 0; i < expected.length; i++) {
      double error = Math.abs((double) expected[i] - actual[i]);
      if (!(error <= TOLERANCE * largest)) {
        throw new AssertionError(
            name
                + " at "
                + i
                + ": autograd has "
                + expected[i]
                + ", found "
                + actual[i]
                + ", largest "
                + largest);
      }
    }
  }

  private static float[] floats(Tensor tensor) {
    Tensor flat = tensor.contiguous();
    float[] values = new float[Math.toIntExact(flat.numel())];
    flat.data_ptr_float().get(values);
    return values;
  }

  // ---------------------------------------------------------------- inputs

  private Parameter parameter(String name, double scale, long... shape) {
    Parameter parameter = parameters.add(name, shape);
    parameter.value().copyFrom(gaussians(parameter.value().elements(), scale));
    return parameter;
  }

  private Tensor leaf(Parameter parameter) {
    return leaves.computeIfAbsent(parameter, p -> leaf(p.value()));
  }

  private static Tensor leaf(DeviceTensor values) {
    return TorchBridge.view(values).clone().requires_grad_(true);
  }

  private DeviceTensor randomTensor(long rows, long cols) {
    DeviceTensor tensor = arena.allocate(DType.F32, rows, cols);
    tensor.copyFrom(gaussians(rows * cols, 1));
    return tensor;
  }

  private float[] gaussians(long count, double scale) {
    float[] values = new float[Math.toIntExact(count)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (random.nextGaussian() * scale);
    }
    return values;
  }

  /** The mask of docs/lora.md by its definition, one Philox call an element. */
  private Tensor mask(Tensor x, float probability, int number) {
    float[] mask = new float[Math.toIntExact(x.numel())];
    for (int i = 0; i < mask.length; i++) {
      boolean kept =
          Philox.keeps(probability, pass.dropoutSeed(), pass.step(), pass.microBatch(), number, i);
      mask[i] = kept ? 1 / (1 - probability) : 0;
    }
    return torch.tensor(mask).reshape(x.size(0), x.size(1));
  }

  private SequenceBatch batch(int[] cu) {
    int tokens = cu[cu.length - 1];
    int[] positions = new int[tokens];
    for (int s = 0; s + 1 < cu.length; s++) {
      for (int i = cu[s]; i < cu[s + 1]; i++) {
        positions[i] = i - cu[s];
      }
    }
    return SequenceBatch.of(arena, new int[tokens], positions, cu);
  }

  private static Activation.Kind kind(ModelConfig config) {
    return switch (config.activation()) {
      case SILU -> Activation.Kind.SILU;
      case GELU_ERF -> Activation.Kind.GELU_ERF;
      case GELU_TANH -> Activation.Kind.GELU_TANH;
    };
  }

  /**
   * A layer of an architecture with whatever sets it apart: odd windows, caps that bend, a scale
   * that is not that of the heads.
   */
  private static ModelConfig config(String modelType) {
    ObjectNode json =
        Json.object(
            """
            {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 6,
             "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 112}
            """,
            "test");
    json.put("model_type", modelType.replaceAll(" .*", ""));
    switch (modelType) {
      case "gpt_neox", "gpt_neox sequential" -> {
        json.remove("num_key_value_heads");
        json.put("rotary_pct", 0.5).put("use_parallel_residual", modelType.equals("gpt_neox"));
      }
      case "mistral" -> json.put("sliding_window", 7);
      case "phi3" -> json.put("sliding_window", 11).put("partial_rotary_factor", 0.5);
      case "phi3 longrope" -> {
        json.put("max_position_embeddings", 64).put("original_max_position_embeddings", 16);
        ObjectNode scaling = json.putObject("rope_scaling").put("type", "longrope");
        for (int i = 0; i < 8; i++) {
          scaling.withArray("short_factor").add(1 + 0.1 * i);
          scaling.withArray("long_factor").add(1.5 + 0.5 * i);
        }
      }
      case "gemma2" ->
          json.put("sliding_window", 5)
              .put("query_pre_attn_scalar", 24)
              .put("attn_logit_softcapping", 2.5);
      case "gemma3_text" -> json.put("sliding_window", 5).put("query_pre_attn_scalar", 24);
      default -> {}
    }
    return ModelConfig.parse(json, "test");
  }
}
