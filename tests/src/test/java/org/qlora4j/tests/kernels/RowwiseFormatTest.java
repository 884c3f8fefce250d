// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicContainer;
import org.junit.jupiter.api.DynamicNode;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.kernels.Weight;
import org.qlora4j.tests.support.Comparison;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.Randoms;
import org.qlora4j.tests.support.Tolerance;

/**
 * The row-wise 8-bit formats against what this project did not write: E4M3 against libtorch's
 * {@code float8_e4m3fn}; the INT8 product against sums of integers by definition; linears with
 * either weight against libtorch autograd on the weight dequantized there.
 */
class RowwiseFormatTest {
  private static final long SEED = 4130;
  private static final int RANK = 8;
  private static final float S = 0.5f;

  @TestFactory
  Stream<DynamicNode> everyPack() {
    return Packs.names(true).stream()
        .map(
            name ->
                Packs.opens(name)
                    ? DynamicContainer.dynamicContainer(name, tests(Packs.open(name)))
                    : DynamicTest.dynamicTest(name, () -> Packs.open(name)));
  }

  private static List<DynamicTest> tests(KernelPack pack) {
    List<DynamicTest> tests = new ArrayList<>();
    add(tests, pack, "every E4M3 code", "dequantize_fp8_rowwise", RowwiseFormatTest::everyCode);
    add(tests, pack, "E4M3 codes", "quantize_fp8_rowwise", RowwiseFormatTest::codes);
    for (int[] shape : new int[][] {{1, 1, 1}, {5, 24, 40}, {19, 67, 129}, {40, 96, 1056}}) {
      String size = " m=" + shape[0] + " n=" + shape[1] + " k=" + shape[2];
      add(
          tests,
          pack,
          "INT8 product" + size,
          "linear_forward",
          memory -> int8Product(memory, shape[0], shape[1], shape[2]));
      for (Weights.Kind kind : List.of(Weights.Kind.INT8, Weights.Kind.FP8)) {
        add(
            tests,
            pack,
            kind + " F32 forward" + size,
            "linear_forward",
            memory -> forward(memory, kind, shape[0], shape[1], shape[2]));
        for (DType type : List.of(DType.F32, DType.BF16)) {
          add(
              tests,
              pack,
              kind + " " + type + " gradient" + size,
              "linear_backward_input",
              memory -> gradient(memory, kind, type, shape[0], shape[1], shape[2]));
        }
      }
    }
    return tests;
  }

  private static void add(
      List<DynamicTest> tests,
      KernelPack pack,
      String name,
      String operator,
      Consumer<DeviceMemory> body) {
    tests.add(
        DynamicTest.dynamicTest(
            name,
            () -> {
              Assumptions.assumeTrue(
                  pack.supports(operator), () -> pack.name() + " leaves " + operator + " out");
              try (PointerScope scope = new PointerScope();
                  DeviceMemory memory = new DeviceMemory(pack)) {
                body.accept(memory);
                memory.checkGuards();
              }
            }));
  }

  // ---------------------------------------------------------------- E4M3

  private static void everyCode(DeviceMemory memory) {
    byte[] bytes = new byte[256];
    for (int i = 0; i < bytes.length; i++) {
      bytes[i] = (byte) i;
    }
    DeviceTensor codes = memory.of(DType.F8_E4M3, bytes, 1, 256);
    DeviceTensor one = memory.of(DType.F32, new float[] {1}, 1);
    DeviceTensor output = memory.empty(DType.F32, 1, 256);
    QuantizationFp8.dequantize(memory.pack(), codes, one, output);
    assertArrayEquals(floats(e4m3(bytes).to(ScalarType.Float)), output.toFloats());
  }

  private static void codes(DeviceMemory memory) {
    int rows = 24;
    int cols = 500;
    Randoms random = new Randoms(SEED);
    float[] values = random.wide((long) rows * cols, 8);
    float[] more = random.normal((long) rows * cols / 2, 1);
    System.arraycopy(more, 0, values, 0, more.length);
    // Row 0 has scale 1 and holds every value of E4M3, every midpoint, and the values beside it.
    float[] all = floats(e4m3(positiveCodes()).to(ScalarType.Float));
    values[0] = QuantizationFp8.LARGEST;
    for (int i = 0; i + 1 < all.length && 4 * i + 4 < cols; i++) {
      float middle = (all[i] + all[i + 1]) / 2;
      values[4 * i + 1] = all[i];
      values[4 * i + 2] = i % 2 == 0 ? middle : -middle;
      values[4 * i + 3] = Math.nextUp(middle);
      values[4 * i + 4] = Math.nextDown(middle);
    }
    DeviceTensor input = memory.of(DType.F32, values, rows, cols);
    DeviceTensor codes = memory.empty(DType.F8_E4M3, rows, cols);
    DeviceTensor scale = memory.empty(DType.F32, rows);
    QuantizationFp8.quantize(memory.pack(), input, codes, scale);
    float[] expectedScale = new float[rows];
    float[] scaled = new float[values.length];
    for (int r = 0; r < rows; r++) {
      float largest = 0;
      for (int c = 0; c < cols; c++) {
        largest = Math.max(largest, Math.abs(values[r * cols + c]));
      }
      expectedScale[r] = largest / QuantizationFp8.LARGEST;
      for (int c = 0; c < cols; c++) {
        scaled[r * cols + c] = values[r * cols + c] / expectedScale[r];
      }
    }
    assertArrayEquals(expectedScale, scale.toFloats());
    Tensor torchCodes = torch.tensor(scaled).to(ScalarType.Float8_e4m3fn);
    assertArrayEquals(bytes(torchCodes), codes.toBytes());
  }

  private static byte[] positiveCodes() {
    byte[] codes = new byte[0x7f];
    for (int i = 0; i < codes.length; i++) {
      codes[i] = (byte) i;
    }
    return codes;
  }

  // ---------------------------------------------------------------- linear

  private static LoraTerm lora(DeviceMemory memory, Randoms random, int n, int k) {
    return new LoraTerm(
        RANK,
        S,
        LoraCompute.F32,
        memory.of(DType.F32, random.normal((long) RANK * k, 1 / Math.sqrt(k)), RANK, k),
        memory.of(DType.F32, random.normal((long) n * RANK, 0.5), n, RANK),
        Dropout.NONE);
  }

  /** y in f64 from the codes of x and W; the branch takes x as it is. */
  private static void int8Product(DeviceMemory memory, int m, int n, int k) {
    Randoms random = new Randoms(SEED + k);
    DeviceTensor x = memory.of(DType.BF16, random.normal((long) m * k, 1), m, k);
    Weight weight = weight(memory, Weights.Kind.INT8, random, n, k);
    LoraTerm lora = lora(memory, random, n, k);
    DeviceTensor bias = memory.of(DType.F32, random.normal(n, 1), n);
    DeviceTensor y = memory.empty(DType.BF16, m, n);
    DeviceTensor xa = memory.empty(DType.F32, m, RANK);
    Linear.forward(memory.pack(), x, weight, lora, bias, null, y, xa);

    float[] xs = x.toFloats();
    byte[] w = weight.data().toBytes();
    float[] wAbsmax = absmax(weight).toFloats();
    float[] a = lora.a().toFloats();
    float[] b = lora.b().toFloats();
    float[] biases = bias.toFloats();
    float[] expected = new float[m * n];
    for (int i = 0; i < m; i++) {
      float largest = 0;
      for (int c = 0; c < k; c++) {
        largest = Math.max(largest, Math.abs(xs[i * k + c]));
      }
      int[] codes = new int[k];
      for (int c = 0; c < k; c++) {
        codes[c] = (int) Math.rint(xs[i * k + c] * (127 / largest));
      }
      double[] inner = new double[RANK];
      for (int r = 0; r < RANK; r++) {
        for (int c = 0; c < k; c++) {
          inner[r] += (double) xs[i * k + c] * a[r * k + c];
        }
      }
      for (int j = 0; j < n; j++) {
        long sum = 0;
        for (int c = 0; c < k; c++) {
          sum += (long) codes[c] * w[j * k + c];
        }
        double branch = 0;
        for (int r = 0; r < RANK; r++) {
          branch += inner[r] * b[j * RANK + r];
        }
        double product = sum * ((double) largest * wAbsmax[j]) / (127.0 * 127.0);
        expected[i * n + j] = (float) (product + biases[j] + S * branch);
      }
    }
    // The product is exact up to its scales; the branch is a sum in f32.
    Tolerance tolerance =
        Tolerance.rounded(DType.BF16, 1).plus(Tolerance.sum(k)).plus(Tolerance.function(4));
    Comparison.of("y", expected, y.toFloats(), tolerance, n).orFail(memory.pack().name());
  }

  /** With f32 activations both formats are weight-only. */
  private static void forward(DeviceMemory memory, Weights.Kind kind, int m, int n, int k) {
    Randoms random = new Randoms(SEED + k + 1);
    DeviceTensor x = memory.of(DType.F32, random.normal((long) m * k, 1), m, k);
    Weight weight = weight(memory, kind, random, n, k);
    LoraTerm lora = lora(memory, random, n, k);
    DeviceTensor y = memory.empty(DType.F32, m, n);
    DeviceTensor xa = memory.empty(DType.F32, m, RANK);
    Linear.forward(memory.pack(), x, weight, lora, null, null, y, xa);
    Tensor expected = torchLinear(tensor(x), dequantized(weight), lora);
    Tolerance tolerance = Tolerance.rounded(DType.F32, 1).plus(Tolerance.sum(k));
    Comparison.of("y", floats(expected), y.toFloats(), tolerance, n).orFail(memory.pack().name());
  }

  /** dx by autograd, with the weight rounded to the type of the activations. */
  private static void gradient(
      DeviceMemory memory, Weights.Kind kind, DType type, int m, int n, int k) {
    Randoms random = new Randoms(SEED + k + 2);
    DeviceTensor dy = memory.of(type, random.normal((long) m * n, 1), m, n);
    Weight weight = weight(memory, kind, random, n, k);
    LoraTerm lora = lora(memory, random, n, k);
    DeviceTensor dx = memory.empty(type, m, k);
    DeviceTensor dyb = memory.empty(DType.F32, m, RANK);
    Linear.backwardInput(memory.pack(), dy, weight, lora, dx, false, dyb);
    Tensor w = dequantized(weight);
    if (type == DType.BF16) {
      w = w.to(ScalarType.BFloat16).to(ScalarType.Float);
    }
    Tensor x = torch.zeros(m, k).requires_grad_(true);
    torchLinear(x, w, lora).mul(tensor(dy)).sum().backward();
    Tolerance tolerance = Tolerance.rounded(type, 1).plus(Tolerance.sum(n));
    Comparison.of("dx", floats(x.grad()), dx.toFloats(), tolerance, k).orFail(memory.pack().name());
  }

  private static Weight weight(
      DeviceMemory memory, Weights.Kind kind, Randoms random, int n, int k) {
    return Weights.of(memory, kind, random.normal((long) n * k, 1 / Math.sqrt(k)), n, k);
  }

  private static Tensor torchLinear(Tensor x, Tensor w, LoraTerm lora) {
    Tensor xa = torch.matmul(x, tensor(lora.a()).transpose(0, 1));
    Tensor branch = torch.matmul(xa, tensor(lora.b()).transpose(0, 1));
    return torch.matmul(x, w.transpose(0, 1)).add(branch.mul(new Scalar((double) lora.s())));
  }

  private static DeviceTensor absmax(Weight weight) {
    DeviceTensor absmax = weight.absmax();
    if (absmax == null) {
      throw new IllegalArgumentException(weight.format() + " has no scale for each row");
    }
    return absmax;
  }

  private static Tensor dequantized(Weight weight) {
    Tensor scale = tensor(absmax(weight)).reshape(weight.rows(), 1);
    byte[] bytes = weight.data().toBytes();
    Tensor codes =
        switch (weight.format()) {
          case FP8 -> e4m3(bytes).to(ScalarType.Float);
          case INT8 -> blob(bytes, ScalarType.Char).to(ScalarType.Float);
          default -> throw new IllegalArgumentException(weight.format() + " is not row-wise");
        };
    Tensor values = codes.reshape(weight.rows(), weight.cols()).mul(scale);
    return weight.data().dtype() == DType.I8
        ? values.mul(new Scalar((double) (1.0f / 127.0f)))
        : values;
  }

  // ---------------------------------------------------------------- tensors

  private static Tensor e4m3(byte[] codes) {
    return blob(codes, ScalarType.Float8_e4m3fn);
  }

  private static Tensor blob(byte[] bytes, ScalarType type) {
    return torch
        .from_blob(
            new BytePointer(bytes),
            new long[] {bytes.length},
            new org.bytedeco.pytorch.TensorOptions(type))
        .clone();
  }

  private static Tensor tensor(DeviceTensor values) {
    return torch.tensor(values.toFloats()).reshape(values.shape());
  }

  private static float[] floats(Tensor tensor) {
    Tensor flat = tensor.contiguous();
    float[] values = new float[Math.toIntExact(flat.numel())];
    flat.data_ptr_float().get(values);
    return values;
  }

  private static byte[] bytes(Tensor tensor) {
    Tensor flat = tensor.contiguous();
    byte[] values = new byte[Math.toIntExact(flat.numel())];
    new BytePointer(flat.data_ptr()).capacity(values.length).get(values);
    return values;
  }
}
