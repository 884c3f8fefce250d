// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.lora.LoraLayer;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tensor.TensorArena;

/**
 * INT8 products with outlier columns against the same rule in float64.
 *
 * <p>Error model: codes are summed exactly. y is rounded to bf16 (2^-9 of itself) once for the INT8
 * columns, once for each group of outliers and once for the branch; dequantized weights of outlier
 * columns are rounded to bf16 once, and so are the factors of xa: together at most 2^-9 of the sum
 * of the terms' magnitudes each. A code of x that lies on the border between two may be rounded the
 * other way in f32: 1/127 of a row's scale times one weight.
 */
class MixedInt8Test {
  private static final long SEED = 20260202;
  private static final int OUT = 48;

  private KernelPack pack;
  private TensorArena arena;
  private Pass pass;
  private Random random;

  @BeforeEach
  void open() {
    pack = KernelPack.openAutomatic();
    arena = new TensorArena(pack);
    pass = new Pass(pack, arena, DType.BF16, LoraCompute.FAST, SEED, 0, 0, true);
    random = new Random(SEED);
  }

  @AfterEach
  void close() {
    arena.close();
    pack.close();
  }

  @ParameterizedTest
  // rows, columns, outlier columns, rank; one row is what generation does, 70 outliers are two
  // groups
  @CsvSource({
    "1, 96, 0, 0",
    "1, 96, 3, 4",
    "17, 96, 0, 4",
    "17, 96, 1, 0",
    "33, 160, 5, 8",
    "130, 200, 70, 8"
  })
  void isTheRuleInFloat64(int rows, int in, int outliers, int rank) {
    float[] x = values(rows * in, 1);
    for (int i = 0; i < x.length; i++) {
      x[i] = Math.max(-5.5f, Math.min(5.5f, x[i]));
    }
    for (int o = 0; o < outliers; o++) {
      int column = o * in / outliers;
      x[random.nextInt(rows) * in + column] = (o % 2 == 0 ? 1 : -1) * (o == 0 ? 6f : 20f + o);
    }
    DeviceTensor xs = tensor(DType.BF16, x, rows, in);
    DeviceTensor residual = tensor(DType.BF16, values(rows * OUT, 1), rows, OUT);
    DeviceTensor bias = tensor(DType.F32, values(OUT, 1), OUT);
    DeviceTensor y = arena.allocate(DType.BF16, rows, OUT);
    DeviceTensor dense = tensor(DType.F32, values(OUT * in, 0.2), OUT, in);
    try (QuantizedWeight weight =
            QuantizedWeight.quantize(pack, dense, QuantizationConfig.int8(6));
        ParameterSet parameters = new ParameterSet(pack)) {
      LinearLayer layer = new LinearLayer("linear", 0, weight.weight(), bias);
      layer.setOutlierThreshold(6);
      Parameter a = null;
      Parameter b = null;
      if (rank > 0) {
        a = parameters.add("a", rank, in);
        b = parameters.add("b", OUT, rank);
        a.value().copyFrom(values(rank * in, 0.3));
        b.value().copyFrom(values(OUT * rank, 0.3));
        layer.setLora(new LoraLayer(a, b, 2f, 0f));
      }
      LinearLayer.Saved saved = layer.forward(pass, xs, residual, y);

      float[] rounded = xs.toFloats();
      byte[] codes = weight.codes().toBytes();
      float[] absmax = weight.absmax().toFloats();
      boolean[] isOutlier = new boolean[in];
      int found = 0;
      for (int c = 0; c < in; c++) {
        for (int r = 0; r < rows; r++) {
          isOutlier[c] |= Math.abs(rounded[r * in + c]) >= 6;
        }
        found += isOutlier[c] ? 1 : 0;
      }
      assertEquals(outliers, found, "the test's own outliers");
      float[] got = y.toFloats();
      float[] res = residual.toFloats();
      float[] biases = bias.toFloats();
      float[] av = a == null ? new float[0] : a.value().toFloats();
      float[] bv = b == null ? new float[0] : b.value().toFloats();
      int roundings = 3 + (outliers + MixedInt8.GROUP - 1) / MixedInt8.GROUP + (rank > 0 ? 3 : 0);
      for (int r = 0; r < rows; r++) {
        double scale = 0;
        for (int c = 0; c < in; c++) {
          scale = isOutlier[c] ? scale : Math.max(scale, Math.abs(rounded[r * in + c]));
        }
        for (int o = 0; o < OUT; o++) {
          double sum = res[r * OUT + o] + biases[o];
          double magnitude = Math.abs(res[r * OUT + o]) + Math.abs(biases[o]);
          for (int c = 0; c < in; c++) {
            double w = codes[o * in + c] * (double) absmax[o] / 127;
            double v = rounded[r * in + c];
            double used = isOutlier[c] ? v : Math.rint(v * 127 / scale) * scale / 127;
            sum += used * w;
            magnitude += Math.abs(used * w);
          }
          for (int k = 0; k < rank; k++) {
            double xa = 0;
            double xaMagnitude = 0;
            for (int c = 0; c < in; c++) {
              xa += rounded[r * in + c] * (double) av[k * in + c];
              xaMagnitude += Math.abs(rounded[r * in + c] * (double) av[k * in + c]);
            }
            sum += 2 * xa * bv[o * rank + k];
            magnitude += 2 * xaMagnitude * Math.abs(bv[o * rank + k]);
          }
          double bound = roundings * 0x1p-9 * magnitude + scale / 127 * absmax[o];
          double error = Math.abs(got[r * OUT + o] - sum);
          assertTrue(
              error <= bound,
              "row " + r + ", output " + o + ": " + got[r * OUT + o] + " for " + sum);
        }
      }
      if (rank > 0) {
        assertTrue(saved.xa() != null && saved.xa().rows() == rows, "xa is kept for the backward");
      }
    }
  }

  /** Without an outlier the threshold changes nothing, with one it does. */
  @Test
  void thresholdAlone() {
    int in = 64;
    float[] x = values(5 * in, 1);
    for (int i = 0; i < x.length; i++) {
      x[i] = Math.max(-5f, Math.min(5f, x[i]));
    }
    try (QuantizedWeight weight =
        QuantizedWeight.quantize(
            pack, tensor(DType.F32, values(OUT * in, 0.2), OUT, in), QuantizationConfig.int8(6))) {
      LinearLayer plain = new LinearLayer("plain", 0, weight.weight(), null);
      LinearLayer mixed = new LinearLayer("mixed", 0, weight.weight(), null);
      mixed.setOutlierThreshold(6);
      assertArrayEquals(run(plain, x, in), run(mixed, x, in));
      // One outlier makes all else of its row coarse: 60 / 127 a step, where it was 5 / 127.
      x[3 * in + 7] = 60;
      double coarse = error(run(plain, x, in), x, weight, in);
      double fine = error(run(mixed, x, in), x, weight, in);
      assertTrue(fine < coarse / 3, "errors " + fine + " and " + coarse);
    }
  }

  /** Root mean square of the outlier's row against x that was not quantized. */
  private double error(float[] y, float[] x, QuantizedWeight weight, int in) {
    byte[] codes = weight.codes().toBytes();
    float[] absmax = weight.absmax().toFloats();
    float[] rounded = tensor(DType.BF16, x, x.length).toFloats();
    double squares = 0;
    for (int o = 0; o < OUT; o++) {
      double sum = 0;
      for (int c = 0; c < in; c++) {
        sum += rounded[3 * in + c] * (codes[o * in + c] * (double) absmax[o] / 127);
      }
      squares += (y[3 * OUT + o] - sum) * (y[3 * OUT + o] - sum);
    }
    return Math.sqrt(squares / OUT);
  }

  private float[] run(LinearLayer layer, float[] x, int in) {
    DeviceTensor y = arena.allocate(DType.BF16, x.length / in, OUT);
    layer.forward(pass, tensor(DType.BF16, x, x.length / in, in), null, y);
    return y.toFloats();
  }

  private float[] values(int n, double scale) {
    float[] values = new float[n];
    for (int i = 0; i < n; i++) {
      values[i] = (float) (scale * random.nextGaussian());
    }
    return values;
  }

  private DeviceTensor tensor(DType type, float[] values, long... shape) {
    DeviceTensor tensor = arena.allocate(type, shape);
    tensor.copyFrom(values);
    return tensor;
  }
}
