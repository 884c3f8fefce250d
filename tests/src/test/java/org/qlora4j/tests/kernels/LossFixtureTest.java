// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.Attention;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.LayerNorm;
import org.qlora4j.kernels.RmsNorm;
import org.qlora4j.kernels.Rotary;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Tolerance;

/** Cross entropy, norms, rotary embedding, activations and attention against PyTorch. */
class LossFixtureTest extends FixtureTest {
  LossFixtureTest() {
    super("loss");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.names();
  }

  @Override
  protected List<String> operators(String name) {
    if (name.startsWith("cross_entropy_")) {
      return List.of("cross_entropy");
    } else if (name.startsWith("rope_")) {
      return List.of("rotary");
    }
    String operator =
        name.startsWith("rmsnorm_")
            ? "rms_norm"
            : name.startsWith("layernorm_")
                ? "layer_norm"
                : name.startsWith("causal_attention_") ? "attention" : "activation";
    return List.of(operator + "_forward", operator + "_backward");
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    try (SafetensorsFile file = fixtures.open(name)) {
      if (name.startsWith("cross_entropy_")) {
        crossEntropy(fixtures, file, name, memory);
      } else if (name.startsWith("rmsnorm_")) {
        rmsNorm(file, name, memory);
      } else if (name.startsWith("layernorm_")) {
        layerNorm(file, name, memory);
      } else if (name.startsWith("rope_")) {
        rotary(file, name, memory);
      } else if (name.startsWith("causal_attention_")) {
        attention(file, name, memory);
      } else {
        activation(file, name, memory);
      }
    }
  }

  private static boolean isBf16(String name) {
    return name.contains("bf16");
  }

  private static DType type(String name) {
    return isBf16(name) ? DType.BF16 : DType.F32;
  }

  /** The fixtures' numbers: f32 3e-6, bf16 1.6e-2, and 3e-2 where several roundings chain. */
  private static Tolerance operator(String name, boolean chained) {
    return Tolerance.ofLargest(!isBf16(name) ? 3e-6 : chained ? 3e-2 : 1.6e-2);
  }

  private static DeviceTensor tensor(SafetensorsFile file, String key, DeviceMemory memory) {
    TensorSource source = file.tensor(key);
    return memory.of(source, source.shape());
  }

  private void crossEntropy(
      Fixtures fixtures, SafetensorsFile file, String name, DeviceMemory memory) {
    float smoothing = (float) option(name, "smooth", 0);
    float zLoss = (float) option(name, "zloss", 0);
    String plain = name.replaceFirst("_(smooth|zloss)[^_]+_", "_plain_");
    assertTrue(plain.contains("_plain_"), "unknown kind in " + name);
    DType type = type(name);
    long[] labelValues = file.tensor("labels").toLongs();
    int[] labels = Arrays.stream(labelValues).mapToInt(Math::toIntExact).toArray();
    long counted = Arrays.stream(labels).filter(label -> label != CrossEntropy.IGNORE).count();
    int m = labels.length;
    // The logits are stored once for all kinds; the large ones as bf16 for both types.
    float[] values = logits(fixtures, plain);
    int n = values.length / m;
    DeviceTensor logits = memory.of(type, values, m, n);
    DeviceTensor loss = memory.empty(DType.F32, m);
    DeviceTensor dlogits = memory.empty(type, m, n);
    CrossEntropy.apply(
        memory.pack(), logits, memory.of(labels, m), smoothing, zLoss, 1f / counted, loss, dlogits);
    double sum = 0;
    for (float rowLoss : loss.toFloats()) {
      sum += rowLoss;
    }
    compare(
        memory,
        name,
        "loss",
        file.tensor("loss").toFloats(),
        new float[] {(float) (sum / counted)},
        Tolerance.ofLargest(3e-6),
        1);
    Tolerance gradient =
        new Tolerance(isBf16(name) ? 0x1p-6 : 0, 0, "fixture: 2 bf16 ulps, f32 1e-6 absolute");
    TensorSource whole = file.find("dlogits");
    TensorSource expected = whole == null ? file.tensor("dlogits_first_1024_columns") : whole;
    DeviceTensor actual = whole == null ? dlogits.columns(0, expected.shape()[1]) : dlogits;
    compareAbsolute(memory, name, expected.toFloats(), actual, gradient);
    for (int i = 0; i < m; i++) {
      if (labels[i] == CrossEntropy.IGNORE) {
        float[] row = dlogits.rows(i, 1).toFloats();
        assertEquals(
            true, allZero(row), name + ": row " + i + " is ignored, its gradient is exactly zero");
      }
    }
  }

  private static float[] logits(Fixtures fixtures, String plain) {
    for (String holder : List.of(plain, plain.replace("_f32_", "_bf16_"))) {
      if (fixtures.names().contains(holder)) {
        try (SafetensorsFile file = fixtures.open(holder)) {
          TensorSource logits = file.find("logits");
          if (logits != null) {
            return logits.toFloats();
          }
        }
      }
    }
    throw new AssertionError("no file holds the logits of " + plain);
  }

  /** The number behind a word of a file's name, such as 0.1 in smooth0.1. */
  private static double option(String name, String word, double otherwise) {
    Matcher number = Pattern.compile("_" + word + "_?(\\d[\\d.]*(?:e-?\\d+)?)").matcher(name);
    return number.find() ? Double.parseDouble(number.group(1)) : otherwise;
  }

  private static boolean allZero(float[] values) {
    for (float value : values) {
      if (value != 0) {
        return false;
      }
    }
    return true;
  }

  /**
   * Adds the absolute 1e-6 of the documentation to a tolerance that is relative to the largest
   * element.
   */
  private void compareAbsolute(
      DeviceMemory memory,
      String name,
      float[] expected,
      DeviceTensor actual,
      Tolerance tolerance) {
    double largest = 1e-30;
    for (float value : expected) {
      largest = Math.max(largest, Math.abs(value));
    }
    compare(
        memory,
        name,
        "dlogits " + actual.dtype(),
        expected,
        actual,
        new Tolerance(tolerance.relative(), 1e-6 / largest, tolerance.reason()));
  }

  private void rmsNorm(SafetensorsFile file, String name, DeviceMemory memory) {
    boolean gemma = name.startsWith("rmsnorm_gemma");
    float eps = (float) option(name, "eps", 1e-5);
    DeviceTensor x = tensor(file, "x", memory);
    DeviceTensor w = tensor(file, "w", memory);
    DeviceTensor dy = tensor(file, "dy", memory);
    DeviceTensor y = memory.empty(x.dtype(), x.shape());
    DeviceTensor rstd = memory.empty(DType.F32, x.rows());
    DeviceTensor dx = memory.empty(x.dtype(), x.shape());
    DeviceTensor dw = memory.zeros(DType.F32, x.cols());
    RmsNorm.forward(memory.pack(), x, null, w, eps, gemma, null, y, rstd);
    RmsNorm.backward(memory.pack(), x, w, gemma, rstd, dy, null, dx, dw);
    compare(memory, name, "rms_norm y", file.tensor("y").toFloats(), y, operator(name, false));
    compare(memory, name, "rms_norm dx", file.tensor("d_x").toFloats(), dx, operator(name, false));
    compare(memory, name, "rms_norm dw", file.tensor("d_w").toFloats(), dw, operator(name, true));
  }

  private void layerNorm(SafetensorsFile file, String name, DeviceMemory memory) {
    DeviceTensor x = tensor(file, "x", memory);
    DeviceTensor w = tensor(file, "w", memory);
    DeviceTensor b = tensor(file, "b", memory);
    DeviceTensor dy = tensor(file, "dy", memory);
    DeviceTensor y = memory.empty(x.dtype(), x.shape());
    DeviceTensor mean = memory.empty(DType.F32, x.rows());
    DeviceTensor rstd = memory.empty(DType.F32, x.rows());
    DeviceTensor dx = memory.empty(x.dtype(), x.shape());
    DeviceTensor dw = memory.zeros(DType.F32, x.cols());
    DeviceTensor db = memory.zeros(DType.F32, x.cols());
    float eps = (float) option(name, "eps", 1e-5);
    LayerNorm.forward(memory.pack(), x, null, w, b, eps, null, y, mean, rstd);
    LayerNorm.backward(memory.pack(), x, w, mean, rstd, dy, null, dx, dw, db);
    compare(memory, name, "layer_norm y", file.tensor("y").toFloats(), y, operator(name, false));
    compare(
        memory, name, "layer_norm dx", file.tensor("d_x").toFloats(), dx, operator(name, false));
    compare(memory, name, "layer_norm dw", file.tensor("d_w").toFloats(), dw, operator(name, true));
    compare(memory, name, "layer_norm db", file.tensor("d_b").toFloats(), db, operator(name, true));
  }

  private void activation(SafetensorsFile file, String name, DeviceMemory memory) {
    Activation.Kind kind =
        name.startsWith("swiglu")
            ? Activation.Kind.SILU
            : name.contains("tanh") ? Activation.Kind.GELU_TANH : Activation.Kind.GELU_ERF;
    boolean gated = file.find("up") != null;
    DeviceTensor x = tensor(file, gated ? "gate" : "x", memory);
    DeviceTensor up = gated ? tensor(file, "up", memory) : null;
    DeviceTensor dy = tensor(file, "dy", memory);
    DeviceTensor y = memory.empty(x.dtype(), x.shape());
    DeviceTensor dx = memory.empty(x.dtype(), x.shape());
    DeviceTensor dup = gated ? memory.empty(x.dtype(), x.shape()) : null;
    Activation.forward(memory.pack(), kind, x, up, y);
    Activation.backward(memory.pack(), kind, x, up, dy, dx, dup);
    compare(memory, name, "activation y", file.tensor("y").toFloats(), y, operator(name, false));
    compare(
        memory,
        name,
        "activation dx",
        file.tensor(gated ? "d_gate" : "d_x").toFloats(),
        dx,
        operator(name, false));
    if (dup != null) {
      compare(
          memory,
          name,
          "activation dup",
          file.tensor("d_up").toFloats(),
          dup,
          operator(name, false));
    }
  }

  /**
   * The fixtures are [batch, head, token, size]; every sequence of the batch is rotated through a
   * strided view.
   */
  private void rotary(SafetensorsFile file, String name, DeviceMemory memory) {
    int dim = Math.toIntExact(file.tensor("q").shape()[3]);
    int rotary = (int) option(name, "partial", dim);
    double theta = option(name, "theta", 10_000);
    float[] frequencies = new float[rotary / 2];
    for (int i = 0; i < frequencies.length; i++) {
      // The peer rounds the power to f32 before the division; at position 8191 that last bit is
      // 5e-4 radians.
      frequencies[i] = 1 / (float) Math.pow(theta, (float) (2 * i) / rotary);
    }
    DeviceTensor inverseFrequencies = memory.of(DType.F32, frequencies, frequencies.length);
    long[] positions = file.tensor("pos").toLongs();
    String[][] keys = {{"q", "y0", "dy0", "d_q"}, {"k", "y1", "dy1", "d_k"}};
    for (String[] key : keys) {
      DeviceTensor x = tensor(file, key[0], memory);
      rotate(x, positions, rotary, inverseFrequencies, false, memory);
      compare(memory, name, "rotary", file.tensor(key[1]).toFloats(), x, operator(name, false));
      DeviceTensor dy = tensor(file, key[2], memory);
      rotate(dy, positions, rotary, inverseFrequencies, true, memory);
      compare(
          memory,
          name,
          "rotary gradient",
          file.tensor(key[3]).toFloats(),
          dy,
          operator(name, false));
    }
  }

  private static void rotate(
      DeviceTensor x,
      long[] positions,
      int rotary,
      DeviceTensor frequencies,
      boolean inverse,
      DeviceMemory memory) {
    long[] shape = x.shape();
    int heads = Math.toIntExact(shape[1]);
    int tokens = Math.toIntExact(shape[2]);
    long dim = shape[3];
    for (int sequence = 0; sequence < shape[0]; sequence++) {
      int[] own = new int[tokens];
      for (int t = 0; t < tokens; t++) {
        own[t] = Math.toIntExact(positions[sequence * tokens + t]);
      }
      HeadView view = new HeadView(x, (long) sequence * heads * tokens * dim, dim, tokens * dim);
      Rotary.apply(
          memory.pack(), view, heads, rotary, memory.of(own, tokens), frequencies, 1, inverse);
    }
  }

  /**
   * [batch, head, token, size] to [batch * token, head * size], the layout of several sequences in
   * one batch.
   */
  private static float[] tokenMajor(float[] values, long[] shape) {
    int batch = Math.toIntExact(shape[0]);
    int heads = Math.toIntExact(shape[1]);
    int tokens = Math.toIntExact(shape[2]);
    int dim = Math.toIntExact(shape[3]);
    float[] result = new float[values.length];
    for (int s = 0; s < batch; s++) {
      for (int h = 0; h < heads; h++) {
        for (int t = 0; t < tokens; t++) {
          System.arraycopy(
              values,
              ((s * heads + h) * tokens + t) * dim,
              result,
              ((s * tokens + t) * heads + h) * dim,
              dim);
        }
      }
    }
    return result;
  }

  private void attention(SafetensorsFile file, String name, DeviceMemory memory) {
    long[] qShape = file.tensor("q").shape();
    long[] kShape = file.tensor("k").shape();
    int dim = Math.toIntExact(qShape[3]);
    int tokens = Math.toIntExact(qShape[2]);
    int heads = Math.toIntExact(qShape[1]);
    int kvHeads = Math.toIntExact(kShape[1]);
    int[] cu = new int[Math.toIntExact(qShape[0]) + 1];
    for (int i = 0; i < cu.length; i++) {
      cu[i] = i * tokens;
    }
    DType type = type(name);
    int rows = cu[cu.length - 1];
    DeviceTensor q = heads(file, "q", type, rows, memory);
    DeviceTensor k = heads(file, "k", type, rows, memory);
    DeviceTensor v = heads(file, "v", type, rows, memory);
    DeviceTensor dy = heads(file, "dy", type, rows, memory);
    DeviceTensor out = memory.empty(type, q.shape());
    DeviceTensor lse = memory.empty(DType.F32, heads, rows);
    DeviceTensor dq = memory.empty(type, q.shape());
    DeviceTensor dk = memory.empty(type, k.shape());
    DeviceTensor dv = memory.empty(type, v.shape());
    Attention.Shape shape = Attention.Shape.causal(heads, kvHeads, dim);
    Attention.forward(
        memory.pack(),
        shape,
        cu,
        cu,
        view(q, dim),
        view(k, dim),
        view(v, dim),
        view(out, dim),
        lse);
    Attention.backward(
        memory.pack(),
        shape,
        cu,
        cu,
        view(q, dim),
        view(k, dim),
        view(v, dim),
        view(out, dim),
        lse,
        view(dy, dim),
        view(dq, dim),
        view(dk, dim),
        view(dv, dim));
    check(memory, file, name, "y", out);
    check(memory, file, name, "d_q", dq);
    check(memory, file, name, "d_k", dk);
    check(memory, file, name, "d_v", dv);
  }

  private void check(
      DeviceMemory memory,
      SafetensorsFile file,
      String name,
      String key,
      @Nullable DeviceTensor actual) {
    TensorSource expected = file.tensor(key);
    if (actual != null) {
      compare(
          memory,
          name,
          "attention " + key,
          tokenMajor(expected.toFloats(), expected.shape()),
          actual,
          operator(name, true));
    }
  }

  private static HeadView view(DeviceTensor tensor, int dim) {
    return HeadView.of(tensor, dim);
  }

  private static DeviceTensor heads(
      SafetensorsFile file, String key, DType type, int rows, DeviceMemory memory) {
    TensorSource source = file.tensor(key);
    return memory.of(
        type, tokenMajor(source.toFloats(), source.shape()), rows, source.elements() / rows);
  }
}
