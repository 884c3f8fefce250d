// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Consumer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AutoGradMode;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Limit;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * The linear with its LoRA branch, forward and backward to its input, beside libtorch's product
 * with the same weight in the compute type and no branch.
 *
 * <p>Every result is compared first, on 16 rows (the first and the last 8), with a product in f32
 * of the values that the reference pack dequantizes. The tolerance: roundings of a sum of t
 * products add up like a random walk, so {@code (sqrt(t) + 8) * 2^-22} times the sum of the terms'
 * magnitudes is several times what can be expected; a result in bf16 may be off by another 2^-8 of
 * itself, and the branch, whose inner sum is rounded to bf16, by 2^-8 of the branch's terms.
 */
public final class LinearBench {
  private static final int CHECKED_ROWS = 8;
  private static final double ROW_SECONDS = 20;

  /** Up to this many rows a product waits for its weight, which must come out of memory. */
  private static final long FEW_ROWS = 64;

  private static final double BF16_STEP = 1.0 / 256;
  private static final double F32_STEP = 1.0 / (1 << 22);

  /** A weight's shape: n out, k in. */
  public record Shape(long n, long k) {}

  /**
   * What to measure.
   *
   * @param shapes weights
   * @param rows numbers of rows of x
   * @param rank of the branch; 0 for none
   * @param format of the weight
   */
  public record Options(List<Shape> shapes, List<Long> rows, int rank, WeightFormat format) {}

  private final Setting setting;
  private final KernelPack pack;
  private final Options options;

  public LinearBench(Setting setting, Options options) {
    this.setting = setting;
    this.pack = setting.pack();
    this.options = options;
  }

  /**
   * Measures everything.
   *
   * @param rows takes each row as it is measured
   * @param notes takes a line for what the pack does not do
   */
  public void run(Consumer<Row> rows, Consumer<String> notes, Progress progress) {
    progress.start("bench linear", (long) options.shapes().size() * options.rows().size() * 2);
    long done = 0;
    torch.manual_seed(1);
    for (Shape shape : options.shapes()) {
      boolean few = options.rows().stream().anyMatch(m -> m <= FEW_ROWS);
      long outOfCache = few ? setting.machine().outOfCacheBytes() : 0;
      long needed = LinearWeights.bytesNeeded(setting.compute(), shape.n(), shape.k(), outOfCache);
      if (setting.machine().availableBytes() > 0 && needed > setting.machine().availableBytes()) {
        throw new InputException(
            "--shapes: "
                + shape.n()
                + "x"
                + shape.k()
                + " needs "
                + Text.bytes(needed)
                + " with its copies and libtorch's, and "
                + Text.bytes(setting.machine().availableBytes())
                + " are available");
      }
      progress.update(done, "preparing " + shape.n() + " x " + shape.k());
      try (LinearWeights weights =
          new LinearWeights(
              pack,
              setting.reference(),
              options.format(),
              setting.compute(),
              shape.n(),
              shape.k(),
              outOfCache)) {
        for (long m : options.rows()) {
          for (boolean forward : new boolean[] {true, false}) {
            progress.update(
                done++,
                shape.n()
                    + " x "
                    + shape.k()
                    + ", m = "
                    + m
                    + (forward ? ", forward" : ", backward"));
            try {
              rows.accept(measure(shape, weights, m, forward));
            } catch (UnsupportedOperationException e) {
              notes.accept(setting.notSupported(name() + (forward ? " forward" : " backward"), e));
            }
          }
        }
      } catch (UnsupportedOperationException e) {
        done += 2L * options.rows().size();
        notes.accept(setting.notSupported(name(), e));
      }
    }
    progress.update(done, "done");
    progress.finish();
  }

  private String name() {
    return "linear_" + options.format().name().toLowerCase(Locale.ROOT);
  }

  private Row measure(Shape shape, LinearWeights weights, long m, boolean forward) {
    long n = shape.n();
    long k = shape.k();
    int rank = options.rank();
    long in = forward ? k : n;
    long out = forward ? n : k;
    try (TensorArena arena = new TensorArena(pack);
        PointerScope scope = new PointerScope();
        AutoGradMode off = new AutoGradMode(false)) {
      DeviceTensor x = random(arena, setting.compute(), 1, m, in);
      DeviceTensor y = arena.allocate(setting.compute(), m, out);
      DeviceTensor z = arena.allocate(setting.compute(), m, out);
      LoraTerm lora = null;
      DeviceTensor inner = null;
      if (rank > 0) {
        DeviceTensor a = random(arena, DType.F32, 1 / Math.sqrt((double) k), rank, k);
        DeviceTensor b = random(arena, DType.F32, 0.02, n, rank);
        lora = new LoraTerm(rank, 2f, LoraCompute.FAST, a, b, Dropout.NONE);
        inner = arena.allocate(DType.F32, m, rank);
      }
      LoraTerm term = lora;
      DeviceTensor kept = inner;
      PairedTimer.Call ours =
          i -> {
            if (forward) {
              Linear.forward(pack, x, weights.weight(i), term, null, null, y, kept);
            } else {
              Linear.backwardInput(pack, x, weights.weight(i), term, y, false, kept);
            }
          };
      TorchBridge.view(y).fill_(new Scalar(Double.NaN)); // what is not written must be seen
      ours.run(0);
      String error = check(weights, term, x, y, forward);
      boolean int8Codes =
          options.format() == WeightFormat.INT8 && forward && setting.compute() == DType.BF16;
      Limit limit = limitOf(int8Codes);
      double operations = 2.0 * m * n * k + 2.0 * m * rank * (n + k);
      double bytes =
          weights.bytes()
              + (double) (m * n + m * k) * setting.compute().bytes()
              + (double) rank * (n + k) * Float.BYTES;
      if (error != null) {
        return row(
            shape,
            m,
            forward,
            Double.NaN,
            operations,
            bytes,
            null,
            Double.NaN,
            Double.NaN,
            Double.NaN,
            error);
      }
      Tensor tx = TorchBridge.view(x);
      Tensor tz = TorchBridge.view(z);
      List<PairedTimer.Call> calls = new ArrayList<>();
      List<String> names = new ArrayList<>();
      calls.add(ours);
      names.add(name());
      calls.add(i -> linear(tz, tx, forward ? weights.dense(i) : weights.transposed(i)));
      names.add(forward ? "linear" : "linear on the transposed weight");
      if (!forward) {
        calls.add(i -> product(tz, tx, weights.dense(i)));
        names.add("mm");
      }
      PairedTimer.Times times = PairedTimer.measure(calls, setting.repetitions(), ROW_SECONDS);
      int best = times.ratios().length == 2 || times.ratios()[1] <= times.ratios()[2] ? 1 : 2;
      double seconds = times.seconds()[0];
      return row(
          shape,
          m,
          forward,
          seconds,
          operations,
          bytes,
          "libtorch " + names.get(best),
          times.seconds()[best],
          times.ratios()[best],
          setting.limits().share(limit, operations, bytes, seconds),
          null);
    }
  }

  private Limit limitOf(boolean int8Codes) {
    if (int8Codes) {
      return Limit.INT8;
    }
    return setting.compute() == DType.BF16 ? Limit.BF16 : Limit.F32;
  }

  private Row row(
      Shape shape,
      long m,
      boolean forward,
      double seconds,
      double operations,
      double bytes,
      @Nullable String rival,
      double rivalSeconds,
      double ratio,
      double share,
      @Nullable String error) {
    return new Row(
        name(),
        forward ? "forward" : "backward",
        m,
        shape.n(),
        shape.k(),
        options.rank(),
        pack.name(),
        seconds,
        operations,
        bytes,
        share,
        rival,
        rivalSeconds,
        ratio,
        error);
  }

  private static DeviceTensor random(
      TensorArena arena, DType type, double deviation, long rows, long cols) {
    DeviceTensor tensor = arena.allocate(type, rows, cols);
    try (PointerScope scope = new PointerScope()) {
      TorchBridge.view(tensor).copy_(torch.randn(rows, cols).mul(new Scalar(deviation)));
    }
    return tensor;
  }

  /**
   * Into memory that is there, as ours; libtorch would otherwise fault in a new result each time.
   */
  private static void linear(Tensor out, Tensor x, DeviceTensor weight) {
    try (PointerScope scope = new PointerScope()) {
      torch.linear_out(out, x, TorchBridge.view(weight));
    }
  }

  private static void product(Tensor out, Tensor x, DeviceTensor weight) {
    try (PointerScope scope = new PointerScope()) {
      torch.mm_out(out, x, TorchBridge.view(weight));
    }
  }

  private @Nullable String check(
      LinearWeights weights,
      @Nullable LoraTerm lora,
      DeviceTensor x,
      DeviceTensor y,
      boolean forward) {
    boolean bf16 = setting.compute() == DType.BF16;
    try (PointerScope scope = new PointerScope()) {
      Tensor found = ends(TorchBridge.view(y)).to(ScalarType.Float);
      Tensor input = ends(TorchBridge.view(x)).to(ScalarType.Float);
      Tensor matrix = weights.values();
      if (bf16 && forward && options.format() == WeightFormat.INT8) {
        input = throughInt8(ends(TorchBridge.view(x)));
        matrix = int8Values(weights);
      }
      Tensor left = forward ? matrix.t() : matrix;
      Tensor expected = input.mm(left);
      Tensor terms = input.abs().mm(left.abs());
      Tensor slack = expected.abs().mul(new Scalar(0));
      long summands = matrix.size(forward ? 1 : 0);
      if (lora != null) {
        Tensor plain = ends(TorchBridge.view(x)).to(ScalarType.Float);
        Tensor a = rounded(TorchBridge.view(lora.a()), bf16);
        Tensor b = rounded(TorchBridge.view(lora.b()), bf16);
        Tensor inner = rounded(plain.mm(forward ? a.t() : b), bf16);
        Tensor outer = (forward ? b.t() : a).mul(new Scalar((double) lora.s()));
        expected = expected.add(inner.mm(outer));
        Tensor branch = inner.abs().mm(outer.abs());
        terms = terms.add(branch);
        slack = branch.mul(new Scalar(bf16 ? BF16_STEP : 0));
        summands += lora.rank();
      }
      Tensor tolerance =
          terms
              .mul(new Scalar((Math.sqrt((double) summands) + 8) * F32_STEP))
              .add(slack)
              .add(expected.abs().mul(new Scalar(bf16 ? BF16_STEP : 0)));
      return Agreement.check(forward ? "y" : "dx", found, expected, tolerance);
    }
  }

  private static Tensor rounded(Tensor values, boolean bf16) {
    return bf16 ? values.to(ScalarType.BFloat16).to(ScalarType.Float) : values;
  }

  /** The first and the last rows, where tiles begin and end. */
  private static Tensor ends(Tensor matrix) {
    long rows = matrix.size(0);
    if (rows <= 2 * CHECKED_ROWS) {
      return matrix;
    }
    return torch.cat(
        new TensorVector(
            matrix.narrow(0, 0, CHECKED_ROWS),
            matrix.narrow(0, rows - CHECKED_ROWS, CHECKED_ROWS)));
  }

  /** What INT8 codes make of x, row by row. */
  private Tensor throughInt8(Tensor x) {
    try (TensorArena arena = new TensorArena(setting.reference())) {
      DeviceTensor input = arena.allocate(setting.compute(), x.size(0), x.size(1));
      TorchBridge.view(input).copy_(x);
      DeviceTensor codes = arena.allocate(DType.I8, x.size(0), x.size(1));
      DeviceTensor scales = arena.allocate(DType.F32, x.size(0));
      QuantizationInt8.quantize(setting.reference(), input, 0, codes, scales, null);
      DeviceTensor output = arena.allocate(DType.F32, x.size(0), x.size(1));
      QuantizationInt8.dequantize(setting.reference(), codes, scales, output);
      return TorchBridge.view(output).clone();
    }
  }

  private Tensor int8Values(LinearWeights weights) {
    try (TensorArena arena = new TensorArena(setting.reference())) {
      DeviceTensor output =
          arena.allocate(DType.F32, weights.weight(0).rows(), weights.weight(0).cols());
      LinearWeights.dequantize(setting.reference(), weights.weight(0), output);
      return TorchBridge.view(output).clone();
    }
  }
}
