// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.util.HashMap;
import java.util.Map;
import java.util.SplittableRandom;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.StringViewOptional;
import org.bytedeco.pytorch.T_TensorTensorTensor_T;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.LinearLayer;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.WeightFiles;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tensor.TorchBridge;

/**
 * Beginnings of adapters that come from the base's weights, made while the base is loaded.
 *
 * <ul>
 *   <li>PiSSA: with the singular values w = u · diag(σ) · vᵀ, b = u · diag(√(σ/s)) and a =
 *       diag(√(σ/s)) · vᵀ of the largest; the base keeps w - s · b · a, quantized where it is.
 *   <li>LoftQ: the same of what quantization loses, w - dequantized(w); the base is the plain
 *       quantized one, so that the adapter fits it wherever it was quantized by the same rule.
 * </ul>
 */
public final class WeightDecomposition implements ModelLoader.QuantizedSource {
  /** Random directions beyond the rank (Halko, Martinsson, Tropp 2011, section 4.2). */
  private static final int OVERSAMPLING = 8;

  /** a [rank, in] and b [out, rank] of a layer, row-major. */
  private record Factors(float[] a, float[] b) {}

  private final KernelPack pack;
  private final LoraConfig config;
  private final WeightNames names;
  private final ModelCheckpoint checkpoint;
  private final @Nullable QuantizationConfig quantization;
  private final long seed;
  private final Map<String, Factors> factors = new HashMap<>();

  /**
   * @param checkpoint the weights, which must not be quantized yet
   * @param quantization of the base, or null for a dense one, which {@link #decompose} changes
   * @param seed of the randomized decomposition
   * @throws InputException when the rule does not go with the base
   */
  public WeightDecomposition(
      KernelPack pack,
      LoraConfig config,
      WeightNames names,
      ModelCheckpoint checkpoint,
      @Nullable QuantizationConfig quantization,
      long seed) {
    this.pack = pack;
    this.config = config;
    this.names = names;
    this.checkpoint = checkpoint;
    this.quantization = quantization;
    this.seed = seed;
    if (names.linears().stream().anyMatch(m -> WeightNames.isQuantized(checkpoint, m))) {
      throw new InputException(
          checkpoint.directory()
              + ": the weights are stored in 4 or 8 bits; init_lora_weights: "
              + config.init()
              + " needs them in 16 or 32 bits");
    }
    if (config.init().kind() == LoraInit.Kind.LOFTQ
        && (quantization == null || !quantization.format().is4Bit())) {
      throw new InputException(
          "init_lora_weights: loftq makes up for what 4 bits lose; expected method: qlora");
    }
  }

  /** Decomposes a weight before it is quantized; null where it has no adapter. */
  @Override
  public @Nullable QuantizedWeight find(WeightNames.Module module) {
    QuantizationConfig format = quantization;
    if (format == null || !config.targets(module.path())) {
      return null;
    }
    TensorSource source = names.weight(checkpoint, module);
    long rows = module.rows();
    long cols = module.cols();
    try (DeviceBuffer memory = DeviceBuffer.allocate(pack, rows * cols * Float.BYTES);
        DeviceBuffer stored = DeviceBuffer.allocate(pack, rows * cols * source.dtype().bytes())) {
      DeviceTensor weight = DeviceTensor.of(memory, 0, DType.F32, rows, cols);
      DeviceTensor rounded = DeviceTensor.of(stored, 0, source.dtype(), rows, cols);
      WeightFiles.read(pack, source, weight);
      if (config.init().kind() == LoraInit.Kind.PISSA) {
        decompose(module.path(), weight, true);
        TorchBridge.copy(weight, rounded);
        return QuantizedWeight.quantize(pack, rounded, format);
      }
      TorchBridge.copy(weight, rounded);
      QuantizedWeight quantized = QuantizedWeight.quantize(pack, rounded, format);
      boolean done = false;
      try (DeviceBuffer dequantized = DeviceBuffer.allocate(pack, rows * cols * Float.BYTES)) {
        DeviceTensor values = DeviceTensor.of(dequantized, 0, DType.F32, rows, cols);
        Quantization4Bit.dequantize(pack, quantized.weight(), values);
        try (PointerScope scope = new PointerScope()) {
          TorchBridge.view(weight).sub_(TorchBridge.view(values));
        }
        decompose(module.path(), weight, false);
        done = true;
        return quantized;
      } finally {
        if (!done) {
          quantized.close();
        }
      }
    }
  }

  /**
   * Decomposes the weights of a model that was loaded dense, in place: they are what the adapters
   * leave of them.
   */
  public void decompose(DecoderModel model) {
    if (quantization != null) {
      return;
    }
    for (LinearLayer linear : model.linears()) {
      if (!config.targets(linear.name())) {
        continue;
      }
      if (linear.weight().format() != WeightFormat.DENSE) {
        throw new IllegalStateException(linear.name() + " is quantized");
      }
      long elements = linear.out() * linear.in();
      try (DeviceBuffer memory = DeviceBuffer.allocate(pack, elements * Float.BYTES)) {
        DeviceTensor weight = DeviceTensor.of(memory, 0, DType.F32, linear.out(), linear.in());
        TorchBridge.copy(linear.weight().data(), weight);
        decompose(linear.name(), weight, true);
        TorchBridge.copy(weight, linear.weight().data());
      }
    }
  }

  /** Copies a layer's beginning. */
  void copyTo(String name, DeviceTensor a, DeviceTensor b) {
    Factors made = factors.remove(name);
    if (made == null) {
      throw new IllegalStateException("the weight of " + name + " was not decomposed");
    }
    a.copyFrom(made.a());
    b.copyFrom(made.b());
  }

  /** Keeps the factors of a weight; with {@code subtract}, takes their product off it. */
  private void decompose(String name, DeviceTensor weight, boolean subtract) {
    int rank = config.rank(name);
    if (rank > Math.min(weight.rows(), weight.cols())) {
      throw new InputException(
          "lora_r: expected at most "
              + Math.min(weight.rows(), weight.cols())
              + " for init_lora_weights: "
              + config.init()
              + " on "
              + name
              + ", found "
              + rank);
    }
    double scaling = config.scaling(name);
    try (PointerScope scope = new PointerScope()) {
      // On the host: libtorch's decompositions on a GPU need libraries that may be missing there.
      Tensor w = TorchBridge.view(weight).cpu();
      Tensor[] parts =
          config.init().iterations() == 0
              ? exact(w)
              : randomized(w, rank, config.init().iterations(), name);
      Tensor roots = parts[1].narrow(0, 0, rank).div(new Scalar(scaling)).sqrt();
      Tensor a = parts[2].narrow(0, 0, rank).mul(roots.unsqueeze(1)).contiguous();
      Tensor b = parts[0].narrow(1, 0, rank).mul(roots.unsqueeze(0)).contiguous();
      if (subtract) {
        TorchBridge.view(weight).copy_(w.sub(torch.matmul(b, a).mul_(new Scalar(scaling))));
      }
      factors.put(name, new Factors(floats(a), floats(b)));
    }
  }

  private static float[] floats(Tensor tensor) {
    float[] values = new float[Math.toIntExact(tensor.numel())];
    tensor.data_ptr_float().get(values);
    return values;
  }

  /** u, σ and vᵀ of all singular values. */
  private static Tensor[] exact(Tensor w) {
    T_TensorTensorTensor_T svd = torch.linalg_svd(w, false, new StringViewOptional());
    return new Tensor[] {svd.get0(), svd.get1(), svd.get2()};
  }

  /**
   * The largest ones, by Halko, Martinsson and Tropp's algorithm 4.4: an orthonormal basis of w
   * applied to random directions, sharpened by power iterations, and the exact decomposition
   * within.
   */
  private Tensor[] randomized(Tensor w, int rank, int iterations, String name) {
    long rows = w.size(0);
    long cols = w.size(1);
    int directions = (int) Math.min(rank + OVERSAMPLING, Math.min(rows, cols));
    SplittableRandom random = new SplittableRandom(seed + name.hashCode());
    float[] values = new float[Math.toIntExact(cols * directions)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) random.nextGaussian();
    }
    Tensor start = torch.tensor(values).reshape(cols, directions);
    Tensor basis = orthonormal(torch.matmul(w, start));
    Tensor transposed = w.transpose(0, 1);
    for (int i = 0; i < iterations; i++) {
      basis = orthonormal(torch.matmul(w, orthonormal(torch.matmul(transposed, basis))));
    }
    Tensor[] small = exact(torch.matmul(basis.transpose(0, 1), w));
    return new Tensor[] {torch.matmul(basis, small[0]), small[1], small[2]};
  }

  private static Tensor orthonormal(Tensor columns) {
    return torch.linalg_qr(columns).get0();
  }
}
