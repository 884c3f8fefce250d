// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.List;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.lora.DoraMagnitude;
import org.qlora4j.lora.LoraLayer;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Tolerance;

/**
 * A quantized linear with a DoRA against PEFT over bitsandbytes: output, gradient to the input,
 * gradients of A, B and the magnitudes.
 */
class DoraFixtureTest extends FixtureTest {
  DoraFixtureTest() {
    super("qlora_linear");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.names().stream()
        .filter(name -> fixtures.index().path(name).path("use_dora").asBoolean())
        .toList();
  }

  @Override
  protected List<String> operators(String name) {
    return List.of(
        "linear_forward",
        "linear_backward_input",
        "linear_weight_gradient",
        "lora_weight_gradient",
        "dequantize_4bit");
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    JsonNode entry = fixtures.index().path(name);
    try (SafetensorsFile file = fixtures.open(name);
        TensorArena arena = new TensorArena(memory.pack())) {
      for (LoraCompute compute : LoraCompute.values()) {
        run(file, name, entry, compute, memory, arena);
      }
    }
  }

  private void run(
      SafetensorsFile file,
      String name,
      JsonNode entry,
      LoraCompute compute,
      DeviceMemory memory,
      TensorArena arena) {
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
            WeightFormat.NF4,
            type,
            entry.path("blocksize").asInt(),
            256,
            file.tensor("nested_offset").toFloats()[0],
            n,
            k,
            memory.vector(file.tensor("packed")),
            memory.vector(file.tensor("absmax")),
            memory.vector(file.tensor("nested_absmax")));
    TensorSource bias = file.find("bias");
    LinearLayer linear =
        new LinearLayer("linear", 0, weight, bias == null ? null : memory.vector(bias));
    Pass pass = new Pass(memory.pack(), arena, type, compute, 0, 0, 0, true);
    try (ParameterSet parameters = new ParameterSet(memory.pack())) {
      Parameter a = parameter(parameters, file, "lora_A", rank, k);
      Parameter b = parameter(parameters, file, "lora_B", n, rank);
      Parameter magnitude = parameter(parameters, file, "dora_magnitude", n);
      parameters.allocateGradients();
      linear.setLora(
          new LoraLayer(
              a,
              b,
              (float) entry.path("scaling").asDouble(),
              0f,
              new DoraMagnitude(magnitude, memory.empty(DType.F32, n))));
      DeviceTensor y = memory.empty(type, m, n);
      DeviceTensor dx = memory.empty(type, m, k);
      LinearLayer.Saved saved = linear.forward(pass, x, null, y);
      linear.backward(pass, saved, dy, dx, false);

      // fp32: the fixtures' own bound for everything. bf16: 2e-2 for y and dx, and the same for the
      // magnitudes, whose gradient is a sum over products that are rounded to bf16 like y. A and B
      // see dy times the scale, rounded to bf16 once, where the peer rounds nothing: 2^-8; the fast
      // mode rounds A, B and the inner results too: 2^-8 each, three in a row.
      Tolerance result = Tolerance.ofLargest(bf16 ? 2e-2 : 5e-6);
      boolean fast = bf16 && compute == LoraCompute.FAST;
      Tolerance gradient = Tolerance.ofLargest(fast ? 4 * 0x1p-8 : bf16 ? 0x1p-8 : 5e-6);
      compare(memory, name, "y", file.tensor("y").toFloats(), y, result);
      compare(memory, name, "dx", file.tensor("dx").toFloats(), dx, result);
      compare(memory, name, "da", file.tensor("dlora_A").toFloats(), a.gradient(), gradient);
      compare(memory, name, "db", file.tensor("dlora_B").toFloats(), b.gradient(), gradient);
      compare(
          memory,
          name,
          "dm",
          file.tensor("d_dora_magnitude").toFloats(),
          magnitude.gradient(),
          result);
    }
    arena.release(new TensorArena.Mark(0, 0, 0));
  }

  private static Parameter parameter(
      ParameterSet parameters, SafetensorsFile file, String key, long... shape) {
    Parameter parameter = parameters.add(key, shape);
    parameter.value().copyFrom(file.tensor(key).toFloats());
    return parameter;
  }
}
