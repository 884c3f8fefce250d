// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.List;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.Lora;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Tolerance;

/**
 * A quantized linear with its LoRA branch against PEFT over bitsandbytes: output, gradient to the
 * input, gradients of A and B. The files with DoRA are {@code DoraFixtureTest}'s.
 */
class LinearFixtureTest extends FixtureTest {
  LinearFixtureTest() {
    super("qlora_linear");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.names().stream()
        .filter(name -> !fixtures.index().path(name).path("use_dora").asBoolean())
        .toList();
  }

  @Override
  protected List<String> operators(String name) {
    return List.of(
        "linear_forward", "linear_backward_input", "lora_weight_gradient", "dequantize_4bit");
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    JsonNode entry = fixtures.index().path(name);
    try (SafetensorsFile file = fixtures.open(name)) {
      for (LoraCompute compute : LoraCompute.values()) {
        run(file, name, entry, compute, memory);
      }
    }
  }

  private void run(
      SafetensorsFile file, String name, JsonNode entry, LoraCompute compute, DeviceMemory memory) {
    int m = entry.path("M").asInt();
    int n = entry.path("N").asInt();
    int k = entry.path("K").asInt();
    int rank = entry.path("r").asInt();
    boolean bf16 = entry.path("x_dtype").asText().equals("bfloat16");
    DType type = bf16 ? DType.BF16 : DType.F32;
    DeviceTensor x = memory.of(file.tensor("x"), m, k);
    DeviceTensor dy = memory.of(file.tensor("dy"), m, n);
    Weight weight =
        new Weight(
            entry.path("quant_type").asText().equals("nf4") ? WeightFormat.NF4 : WeightFormat.FP4,
            entry.path("weight_dtype").asText().equals("bfloat16") ? DType.BF16 : DType.F32,
            entry.path("blocksize").asInt(),
            256,
            file.tensor("nested_offset").toFloats()[0],
            n,
            k,
            memory.vector(file.tensor("packed")),
            memory.vector(file.tensor("absmax")),
            memory.vector(file.tensor("nested_absmax")));
    LoraTerm lora =
        new LoraTerm(
            rank,
            (float) entry.path("scaling").asDouble(),
            compute,
            memory.of(file.tensor("lora_A"), rank, k),
            memory.of(file.tensor("lora_B"), n, rank),
            Dropout.NONE);
    TensorSource biasSource = file.find("bias");
    DeviceTensor bias = biasSource == null ? null : memory.of(biasSource, n);
    DeviceTensor y = memory.empty(type, m, n);
    DeviceTensor xa = memory.empty(DType.F32, m, rank);
    DeviceTensor dx = memory.empty(type, m, k);
    DeviceTensor dyb = memory.empty(DType.F32, m, rank);
    DeviceTensor da = memory.zeros(DType.F32, rank, k);
    DeviceTensor db = memory.zeros(DType.F32, n, rank);
    Linear.forward(memory.pack(), x, weight, lora, bias, null, y, xa);
    Linear.backwardInput(memory.pack(), dy, weight, lora, dx, false, dyb);
    Lora.weightGradient(memory.pack(), lora, x, dy, xa, dyb, da, db);

    // The fixtures' own numbers: fp32 5e-6 for everything; bf16 2e-2 for y and dx, 1e-3 for the
    // gradients of A and B. The fast
    // mode rounds A, B and the inner results to bf16, which the peer does not: 2^-8 each, three in
    // a row.
    Tolerance result = Tolerance.ofLargest(bf16 ? 2e-2 : 5e-6);
    boolean fast = bf16 && compute == LoraCompute.FAST;
    Tolerance gradient = Tolerance.ofLargest(fast ? 3 * 0x1p-8 : bf16 ? 1e-3 : 5e-6);
    compare(memory, name, "y", file.tensor("y").toFloats(), y, result);
    if (entry.has("rel_dx_difference_if_backward_used_fp32_weights")) {
      // A weight that was bf16 before it was quantized, computing in f32: the peer's forward takes
      // the weight unrounded and its backward takes it rounded to bf16. Ours takes one weight for
      // both: dx is the product with the unrounded weight, here in f64, and equals the peer's where
      // the rounded weight is given.
      compare(
          memory,
          name,
          "dx against the product in f64",
          inputGradient(memory, weight, lora, dy),
          dx,
          result);
      DeviceTensor rounded = memory.empty(DType.BF16, n, k);
      Quantization4Bit.dequantize(memory.pack(), weight, rounded);
      Linear.backwardInput(memory.pack(), dy, Weight.dense(rounded), lora, dx, false, dyb);
    }
    compare(memory, name, "dx", file.tensor("dx").toFloats(), dx, result);
    compare(memory, name, "da", file.tensor("dlora_A").toFloats(), da, gradient);
    compare(memory, name, "db", file.tensor("dlora_B").toFloats(), db, gradient);
  }

  /** dy * W + s * (dy * b) * a of the unrounded weight. */
  private static float[] inputGradient(
      DeviceMemory memory, Weight weight, LoraTerm lora, DeviceTensor dy) {
    DeviceTensor dense = memory.empty(DType.F32, weight.rows(), weight.cols());
    Quantization4Bit.dequantize(memory.pack(), weight, dense);
    float[] w = dense.toFloats();
    float[] a = lora.a().toFloats();
    float[] b = lora.b().toFloats();
    float[] d = dy.toFloats();
    int n = (int) weight.rows();
    int k = (int) weight.cols();
    int rank = lora.rank();
    float[] dx = new float[(int) dy.rows() * k];
    for (int i = 0; i < dx.length; i++) {
      int row = i / k * n;
      double sum = 0;
      for (int j = 0; j < n; j++) {
        double branch = 0;
        for (int r = 0; r < rank; r++) {
          branch += (double) b[j * rank + r] * a[r * k + i % k];
        }
        sum += d[row + j] * (w[j * k + i % k] + lora.s() * branch);
      }
      dx[i] = (float) sum;
    }
    return dx;
  }
}
