// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AutoGradMode;
import org.bytedeco.pytorch.BoolOptional;
import org.bytedeco.pytorch.DoubleOptional;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.AdamW8Bit;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LayerNorm;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.RmsNorm;
import org.qlora4j.kernels.Rotary;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * The operators between the products, each with random operands of some size and with what libtorch
 * does for the same.
 *
 * <p>Tolerances. A result in bf16 is a sum in f32, rounded once: two packs differ by one step, 2^-8
 * of an element, and by what f32 loses where terms cancel, which is small beside the largest
 * element. In attention, probabilities and gradients of scores are rounded to bf16 on the way, each
 * of them by 2^-9; that adds up to a few steps.
 */
final class OperatorCalls {
  private static final float EPS = 1e-5f;
  private static final int BLOCK = 64;
  private static final int NESTED_BLOCK = 256;
  private static final double BF16_RELATIVE = 1.0 / 128;
  private static final double BF16_ABSOLUTE = 1.0 / 1024;
  private static final double F32_RELATIVE = 1e-5;
  private static final double F32_ABSOLUTE = 1e-5;

  /** How large. Attention has `heads` heads of `headDim` and `tokens` tokens. */
  record Size(long rows, long columns, long vocabulary, int heads, int headDim, int tokens) {}

  /** Makes the operands of one operator, in memory of an arena. */
  @FunctionalInterface
  interface Maker {
    /** Makes them with libtorch's random numbers, so with a seed they are the same again. */
    OperatorCall make(OperatorCalls with, Size size);
  }

  private final KernelPack pack;
  private final TensorArena arena;
  private final DType type;

  /**
   * @param arena memory of the operands
   * @param type of activations
   */
  OperatorCalls(KernelPack pack, TensorArena arena, DType type) {
    this.pack = pack;
    this.arena = arena;
    this.type = type;
  }

  /** Every operator by the name a user gives, with one maker for each direction. */
  static Map<String, List<Maker>> all() {
    Map<String, List<Maker>> all = new LinkedHashMap<>();
    all.put("rms_norm", List.of(OperatorCalls::rmsNormForward, OperatorCalls::rmsNormBackward));
    all.put(
        "layer_norm", List.of(OperatorCalls::layerNormForward, OperatorCalls::layerNormBackward));
    all.put("rotary", List.of(OperatorCalls::rotary));
    all.put(
        "swiglu",
        List.of(
            (with, size) -> with.activation(size, true, true),
            (with, size) -> with.activation(size, true, false)));
    all.put(
        "gelu",
        List.of(
            (with, size) -> with.activation(size, false, true),
            (with, size) -> with.activation(size, false, false)));
    all.put("cross_entropy", List.of(OperatorCalls::crossEntropy));
    all.put("adamw", List.of(OperatorCalls::adamw));
    all.put("adamw_8bit", List.of(OperatorCalls::adamw8Bit));
    all.put("quantize_4bit", List.of(OperatorCalls::quantize));
    all.put("dequantize_4bit", List.of(OperatorCalls::dequantize));
    all.put(
        "attention", List.of(OperatorCalls::attentionForward, OperatorCalls::attentionBackward));
    return all;
  }

  private DeviceTensor random(DType dtype, double deviation, double mean, long... shape) {
    DeviceTensor tensor = arena.allocate(dtype, shape);
    try (PointerScope scope = new PointerScope()) {
      TorchBridge.view(tensor)
          .copy_(torch.randn(shape).mul_(new Scalar(deviation)).add_(new Scalar(mean)));
    }
    return tensor;
  }

  /** Overwritten by the call; NaN until then, so that what is forgotten is seen. */
  private DeviceTensor result(DType dtype, long... shape) {
    DeviceTensor tensor = arena.allocate(dtype, shape);
    try (PointerScope scope = new PointerScope()) {
      TorchBridge.view(tensor).fill_(new Scalar(dtype.isFloat() ? Double.NaN : 0));
    }
    return tensor;
  }

  private DeviceTensor zeros(DType dtype, long... shape) {
    DeviceTensor tensor = arena.allocate(dtype, shape);
    tensor.zero();
    return tensor;
  }

  private double relative() {
    return type == DType.BF16 ? BF16_RELATIVE : F32_RELATIVE;
  }

  private double absolute() {
    return type == DType.BF16 ? BF16_ABSOLUTE : F32_ABSOLUTE;
  }

  private OperatorCall memoryBound(
      String direction,
      long m,
      long n,
      double bytes,
      Runnable ours,
      List<DeviceTensor> results,
      String rivalName,
      Runnable rival) {
    return new OperatorCall(
        direction, m, n, 0, 0, bytes, ours, results, relative(), absolute(), rivalName, rival);
  }

  /** A call whose temporaries are freed when it returns. */
  private static Runnable scoped(Runnable call) {
    return () -> {
      try (PointerScope scope = new PointerScope();
          AutoGradMode off = new AutoGradMode(false)) {
        call.run();
      }
    };
  }

  private static Tensor leaf(DeviceTensor tensor) {
    return TorchBridge.view(tensor).requires_grad_(true);
  }

  /** What makes a graph; the graph is made once and its gradients are taken again and again. */
  @FunctionalInterface
  private interface Graph {
    Tensor output();
  }

  private static Runnable gradient(Graph graph, Tensor dy, Tensor... leaves) {
    Tensor y;
    try (AutoGradMode on = new AutoGradMode(true)) {
      y = graph.output();
    }
    return scoped(
        () ->
            torch.grad(
                new TensorVector(y),
                new TensorVector(leaves),
                new TensorVector(dy),
                new BoolOptional(true),
                false,
                false));
  }

  private OperatorCall rmsNormForward(Size size) {
    long m = size.rows();
    long n = size.columns();
    DeviceTensor x = random(type, 1, 0, m, n);
    DeviceTensor weight = random(type, 0.1, 1, n);
    DeviceTensor y = result(type, m, n);
    DeviceTensor rstd = result(DType.F32, m);
    Tensor tx = TorchBridge.view(x);
    TensorOptional tw = new TensorOptional(TorchBridge.view(weight));
    DoubleOptional eps = new DoubleOptional(EPS);
    return memoryBound(
        "forward",
        m,
        n,
        2.0 * m * n * type.bytes(),
        () -> RmsNorm.forward(pack, x, null, weight, EPS, false, null, y, rstd),
        List.of(y, rstd),
        "libtorch rms_norm",
        scoped(() -> torch.rms_norm(tx, new long[] {n}, tw, eps)));
  }

  private OperatorCall rmsNormBackward(Size size) {
    long m = size.rows();
    long n = size.columns();
    DeviceTensor x = random(type, 1, 0, m, n);
    DeviceTensor weight = random(type, 0.1, 1, n);
    DeviceTensor dy = random(type, 1, 0, m, n);
    DeviceTensor dx = result(type, m, n);
    DeviceTensor rstd = result(DType.F32, m);
    try (PointerScope scope = new PointerScope()) {
      Tensor squares =
          TorchBridge.view(x).to(ScalarType.Float).square().mean(new long[] {1}, false, null);
      TorchBridge.view(rstd).copy_(squares.add(new Scalar(EPS)).rsqrt());
    }
    Tensor tx = leaf(x);
    TensorOptional tw = new TensorOptional(TorchBridge.view(weight));
    return memoryBound(
        "backward",
        m,
        n,
        3.0 * m * n * type.bytes(),
        () -> RmsNorm.backward(pack, x, weight, false, rstd, dy, null, dx, null),
        List.of(dx),
        "libtorch gradient of rms_norm",
        gradient(
            () -> torch.rms_norm(tx, new long[] {n}, tw, new DoubleOptional(EPS)),
            TorchBridge.view(dy),
            tx));
  }

  private OperatorCall layerNormForward(Size size) {
    long m = size.rows();
    long n = size.columns();
    DeviceTensor x = random(type, 1, 0, m, n);
    DeviceTensor weight = random(type, 0.1, 1, n);
    DeviceTensor bias = random(type, 0.1, 0, n);
    DeviceTensor y = result(type, m, n);
    DeviceTensor mean = result(DType.F32, m);
    DeviceTensor rstd = result(DType.F32, m);
    Tensor tx = TorchBridge.view(x);
    TensorOptional tw = new TensorOptional(TorchBridge.view(weight));
    TensorOptional tb = new TensorOptional(TorchBridge.view(bias));
    return memoryBound(
        "forward",
        m,
        n,
        2.0 * m * n * type.bytes(),
        () -> LayerNorm.forward(pack, x, null, weight, bias, EPS, null, y, mean, rstd),
        List.of(y, rstd),
        "libtorch layer_norm",
        scoped(() -> torch.layer_norm(tx, new long[] {n}, tw, tb, EPS, true)));
  }

  private OperatorCall layerNormBackward(Size size) {
    long m = size.rows();
    long n = size.columns();
    DeviceTensor x = random(type, 1, 0, m, n);
    DeviceTensor weight = random(type, 0.1, 1, n);
    DeviceTensor dy = random(type, 1, 0, m, n);
    DeviceTensor dx = result(type, m, n);
    DeviceTensor mean = result(DType.F32, m);
    DeviceTensor rstd = result(DType.F32, m);
    try (PointerScope scope = new PointerScope()) {
      Tensor wide = TorchBridge.view(x).to(ScalarType.Float);
      Tensor means = wide.mean(new long[] {1}, true, null);
      Tensor variance = wide.sub(means).square().mean(new long[] {1}, false, null);
      TorchBridge.view(mean).copy_(means.reshape(m));
      TorchBridge.view(rstd).copy_(variance.add(new Scalar(EPS)).rsqrt());
    }
    Tensor tx = leaf(x);
    TensorOptional tw = new TensorOptional(TorchBridge.view(weight));
    return memoryBound(
        "backward",
        m,
        n,
        3.0 * m * n * type.bytes(),
        () -> LayerNorm.backward(pack, x, weight, mean, rstd, dy, null, dx, null, null),
        List.of(dx),
        "libtorch gradient of layer_norm",
        gradient(
            () -> torch.layer_norm(tx, new long[] {n}, tw, new TensorOptional(), EPS, true),
            TorchBridge.view(dy),
            tx));
  }

  private OperatorCall rotary(Size size) {
    int dim = size.headDim();
    int heads = (int) Math.max(1, size.columns() / dim);
    long m = size.rows();
    DeviceTensor x = random(type, 1, 0, m, (long) heads * dim);
    DeviceTensor positions = arena.allocate(DType.I32, m);
    DeviceTensor frequencies = arena.allocate(DType.F32, dim / 2);
    int[] counts = new int[Math.toIntExact(m)];
    float[] inverse = new float[dim / 2];
    for (int i = 0; i < counts.length; i++) {
      counts[i] = i;
    }
    for (int i = 0; i < inverse.length; i++) {
      inverse[i] = (float) Math.pow(10000, -2.0 * i / dim);
    }
    positions.copyFrom(counts);
    frequencies.copyFrom(inverse);
    Tensor tx = TorchBridge.view(x).view(m, heads, dim);
    Tensor angles =
        TorchBridge.view(positions)
            .to(ScalarType.Float)
            .reshape(m, 1, 1)
            .mul(TorchBridge.view(frequencies).reshape(1, 1, dim / 2));
    Tensor both = torch.cat(new TensorVector(angles, angles), -1);
    Tensor cosine = both.cos().to(tx.scalar_type());
    Tensor sine = both.sin().to(tx.scalar_type());
    return memoryBound(
        "forward",
        m,
        (long) heads * dim,
        2.0 * m * heads * dim * type.bytes(),
        () -> Rotary.apply(pack, HeadView.of(x, dim), heads, dim, positions, frequencies, 1, false),
        List.of(x),
        "libtorch x * cos + rotate_half(x) * sin",
        scoped(
            () -> {
              Tensor half =
                  torch.cat(
                      new TensorVector(
                          tx.narrow(2, dim / 2, dim / 2).neg(), tx.narrow(2, 0, dim / 2)),
                      -1);
              tx.mul(cosine).add_(half.mul_(sine));
            }));
  }

  private OperatorCall activation(Size size, boolean gated, boolean forward) {
    Activation.Kind kind = gated ? Activation.Kind.SILU : Activation.Kind.GELU_ERF;
    long m = size.rows();
    long n = size.columns();
    DeviceTensor x = random(type, 1, 0, m, n);
    DeviceTensor up = gated ? random(type, 1, 0, m, n) : null;
    Tensor tx = forward ? TorchBridge.view(x) : leaf(x);
    Tensor tup = up == null ? null : forward ? TorchBridge.view(up) : leaf(up);
    Graph graph = () -> tup == null ? torch.gelu(tx, "none") : torch.silu(tx).mul(tup);
    String name = gated ? "silu(x) * up" : "gelu";
    double tensor = (double) m * n * type.bytes();
    if (forward) {
      DeviceTensor y = result(type, m, n);
      return memoryBound(
          "forward",
          m,
          n,
          (gated ? 3 : 2) * tensor,
          () -> Activation.forward(pack, kind, x, up, y),
          List.of(y),
          "libtorch " + name,
          scoped(graph::output));
    }
    DeviceTensor dy = random(type, 1, 0, m, n);
    DeviceTensor dx = result(type, m, n);
    DeviceTensor dup = gated ? result(type, m, n) : null;
    Tensor[] leaves = tup == null ? new Tensor[] {tx} : new Tensor[] {tx, tup};
    List<DeviceTensor> results = new ArrayList<>(List.of(dx));
    if (dup != null) {
      results.add(dup);
    }
    return memoryBound(
        "backward",
        m,
        n,
        (gated ? 5 : 3) * tensor,
        () -> Activation.backward(pack, kind, x, up, dy, dx, dup),
        results,
        "libtorch gradient of " + name,
        gradient(graph, TorchBridge.view(dy), leaves));
  }

  private OperatorCall crossEntropy(Size size) {
    long m = Math.min(size.rows(), 512);
    long n = size.vocabulary();
    DeviceTensor logits = random(type, 2, 0, m, n);
    DeviceTensor labels = arena.allocate(DType.I32, m);
    TorchBridge.view(labels).copy_(torch.randint(n, new long[] {m}));
    DeviceTensor loss = result(DType.F32, m);
    DeviceTensor dlogits = result(type, m, n);
    Tensor tx = leaf(logits);
    Tensor wanted = TorchBridge.view(labels).to(ScalarType.Long);
    return memoryBound(
        "both",
        m,
        n,
        2.0 * m * n * type.bytes(),
        () -> CrossEntropy.apply(pack, logits, labels, 0, 0, 1f / m, loss, dlogits),
        List.of(loss, dlogits),
        "libtorch cross_entropy and its gradient",
        () -> {
          try (PointerScope scope = new PointerScope();
              AutoGradMode on = new AutoGradMode(true)) {
            torch.grad(
                new TensorVector(torch.cross_entropy_loss(tx, wanted)), new TensorVector(tx));
          }
        });
  }

  private OperatorCall adamw(Size size) {
    long n = size.rows() * size.columns();
    DeviceTensor p = random(DType.F32, 0.02, 0, n);
    DeviceTensor g = random(DType.F32, 0.01, 0, n);
    DeviceTensor first = zeros(DType.F32, n);
    DeviceTensor second = zeros(DType.F32, n);
    List<AdamW.Slot> slots = List.of(new AdamW.Slot(p, g, first, second, 0.01f));
    return new OperatorCall(
        "step",
        n,
        0,
        0,
        0,
        7.0 * n * Float.BYTES,
        () -> AdamW.step(pack, new AdamW.Options(1e-4, 0.9, 0.999, 1e-8), 1, 1, slots),
        List.of(p, first, second),
        F32_RELATIVE,
        F32_ABSOLUTE,
        "libtorch tensor by tensor",
        scoped(() -> plainAdamW(p, g, first, second)));
  }

  /** torch.optim.AdamW's own sequence of tensor operations. */
  private static void plainAdamW(
      DeviceTensor p, DeviceTensor g, DeviceTensor first, DeviceTensor second) {
    Tensor parameter = TorchBridge.view(p);
    Tensor gradient = TorchBridge.view(g);
    Tensor m = TorchBridge.view(first);
    Tensor v = TorchBridge.view(second);
    parameter.mul_(new Scalar(1 - 1e-4 * 0.01));
    m.lerp_(gradient, new Scalar(0.1));
    v.mul_(new Scalar(0.999)).addcmul_(gradient, gradient, new Scalar(0.001));
    Tensor denominator = v.sqrt().div_(new Scalar(Math.sqrt(0.001))).add_(new Scalar(1e-8));
    parameter.addcdiv_(m, denominator, new Scalar(-1e-3));
  }

  private OperatorCall adamw8Bit(Size size) {
    long n = size.rows() * size.columns();
    long blocks = (n + AdamW8Bit.BLOCK_SIZE - 1) / AdamW8Bit.BLOCK_SIZE;
    DeviceTensor p = random(DType.F32, 0.02, 0, n);
    DeviceTensor g = random(DType.F32, 0.01, 0, n);
    AdamW8Bit.Moment first = new AdamW8Bit.Moment(zeros(DType.U8, n), zeros(DType.F32, blocks));
    AdamW8Bit.Moment second = new AdamW8Bit.Moment(zeros(DType.U8, n), zeros(DType.F32, blocks));
    List<AdamW8Bit.Slot> slots = List.of(new AdamW8Bit.Slot(p, g, first, second, 0.01f));
    return new OperatorCall(
        "step",
        n,
        0,
        0,
        0,
        3.0 * n * Float.BYTES + 4.0 * n,
        () ->
            AdamW8Bit.step(
                pack, new AdamW.Options(1e-4, 0.9, 0.999, 1e-8), AdamW8Bit.BLOCK_SIZE, 1, 1, slots),
        List.of(p, first.codes(), second.codes()),
        F32_RELATIVE,
        F32_ABSOLUTE,
        null,
        null);
  }

  private OperatorCall quantize(Size size) {
    long n = size.rows() * size.columns();
    long blocks = Quantization4Bit.blocks(n, BLOCK);
    DeviceTensor x = random(type, 0.02, 0, n);
    DeviceTensor packed = result(DType.U8, Quantization4Bit.packedBytes(n));
    DeviceTensor absmax = result(DType.U8, blocks);
    DeviceTensor nested = result(DType.F32, Quantization4Bit.blocks(blocks, NESTED_BLOCK));
    DeviceTensor offset = result(DType.F32, 1);
    return new OperatorCall(
        "forward",
        size.rows(),
        size.columns(),
        0,
        0,
        (double) x.bytes() + packed.bytes() + absmax.bytes(),
        () ->
            Quantization4Bit.quantize(
                pack, WeightFormat.NF4, x, BLOCK, NESTED_BLOCK, packed, absmax, nested, offset),
        List.of(packed, absmax, nested, offset),
        0,
        0,
        null,
        null);
  }

  private OperatorCall dequantize(Size size) {
    long n = size.rows() * size.columns();
    long blocks = Quantization4Bit.blocks(n, BLOCK);
    DeviceTensor packed = arena.allocate(DType.U8, Quantization4Bit.packedBytes(n));
    DeviceTensor absmax = arena.allocate(DType.U8, blocks);
    DeviceTensor nested =
        random(DType.F32, 1e-4, 0.01, Quantization4Bit.blocks(blocks, NESTED_BLOCK));
    try (PointerScope scope = new PointerScope()) {
      TorchBridge.view(packed).random_(0, new LongOptional(256));
      TorchBridge.view(absmax).random_(0, new LongOptional(256));
    }
    DeviceTensor y = result(type, size.rows(), size.columns());
    Weight weight =
        new Weight(
            WeightFormat.NF4,
            type,
            BLOCK,
            NESTED_BLOCK,
            0.02f,
            size.rows(),
            size.columns(),
            packed,
            absmax,
            nested);
    return new OperatorCall(
        "forward",
        size.rows(),
        size.columns(),
        0,
        0,
        (double) y.bytes() + packed.bytes() + absmax.bytes(),
        () -> Quantization4Bit.dequantize(pack, weight, y),
        List.of(y),
        0,
        0,
        null,
        null);
  }

  private OperatorCall attentionForward(Size size) {
    AttentionOperands a = new AttentionOperands(size);
    double operations = 2.0 * size.heads() * a.tokens * a.tokens * size.headDim();
    return a.call(
        "forward",
        operations,
        4,
        () -> a.forward(),
        List.of(a.out),
        "libtorch scaled_dot_product_attention",
        scoped(() -> a.torch(TorchBridge.view(a.q), TorchBridge.view(a.k), TorchBridge.view(a.v))));
  }

  private OperatorCall attentionBackward(Size size) {
    AttentionOperands a = new AttentionOperands(size);
    DeviceTensor dout = random(type, 1, 0, a.tokens, a.width);
    DeviceTensor dq = result(type, a.tokens, a.width);
    DeviceTensor dk = result(type, a.tokens, a.width);
    DeviceTensor dv = result(type, a.tokens, a.width);
    a.forward();
    Tensor q = leaf(a.q);
    Tensor k = leaf(a.k);
    Tensor v = leaf(a.v);
    int dim = size.headDim();
    // Five products of the size of the forward's two.
    double operations = 5.0 * size.heads() * a.tokens * a.tokens * dim;
    return a.call(
        "backward",
        operations,
        8,
        () ->
            Attention.backward(
                pack,
                a.shape,
                a.starts,
                a.starts,
                HeadView.of(a.q, dim),
                HeadView.of(a.k, dim),
                HeadView.of(a.v, dim),
                HeadView.of(a.out, dim),
                a.lse,
                HeadView.of(dout, dim),
                HeadView.of(dq, dim),
                HeadView.of(dk, dim),
                HeadView.of(dv, dim)),
        List.of(dq, dk, dv),
        "libtorch gradient of scaled_dot_product_attention",
        gradient(() -> a.torch(q, k, v), a.heads(TorchBridge.view(dout)), q, k, v));
  }

  /** Queries, keys and values of one sequence, heads side by side. */
  private final class AttentionOperands {
    final Attention.Shape shape;
    final int tokens;
    final long width;
    final int[] starts;
    final DeviceTensor q;
    final DeviceTensor k;
    final DeviceTensor v;
    final DeviceTensor out;
    final DeviceTensor lse;

    AttentionOperands(Size size) {
      shape = Attention.Shape.causal(size.heads(), size.heads(), size.headDim());
      tokens = size.tokens();
      width = (long) size.heads() * size.headDim();
      starts = new int[] {0, tokens};
      q = random(type, 1, 0, tokens, width);
      k = random(type, 1, 0, tokens, width);
      v = random(type, 1, 0, tokens, width);
      out = result(type, tokens, width);
      lse = result(DType.F32, size.heads(), tokens);
    }

    void forward() {
      int dim = shape.headDim();
      Attention.forward(
          pack,
          shape,
          starts,
          starts,
          HeadView.of(q, dim),
          HeadView.of(k, dim),
          HeadView.of(v, dim),
          HeadView.of(out, dim),
          lse);
    }

    /** [tokens, heads * headDim] as [1, heads, tokens, headDim]. */
    Tensor heads(Tensor x) {
      return x.view(1, tokens, shape.heads(), shape.headDim()).transpose(1, 2);
    }

    Tensor torch(Tensor tq, Tensor tk, Tensor tv) {
      return torch.scaled_dot_product_attention(
          heads(tq),
          heads(tk),
          heads(tv),
          new TensorOptional(),
          0.0,
          true,
          new DoubleOptional(),
          false);
    }

    OperatorCall call(
        String direction,
        double operations,
        int tensors,
        Runnable ours,
        List<DeviceTensor> results,
        String rivalName,
        Runnable rival) {
      boolean bf16 = type == DType.BF16;
      return new OperatorCall(
          direction,
          tokens,
          shape.heads(),
          shape.headDim(),
          operations,
          (double) tensors * tokens * width * type.bytes(),
          ours,
          results,
          bf16 ? 4 * BF16_RELATIVE : 1e-4,
          bf16 ? 16 * BF16_ABSOLUTE : 1e-4,
          rivalName,
          rival);
    }
  }
}
