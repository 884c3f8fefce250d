// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.Objects;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.Dropout;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.Lora;
import org.qlora4j.kernels.LoraTerm;
import org.qlora4j.kernels.Weight;
import org.qlora4j.lora.DoraMagnitude;
import org.qlora4j.lora.LoraLayer;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * A linear whose adapter is a DoRA (docs/lora.md): with g = m / c,
 *
 * <pre>{@code
 * y  = g * (x̃ · wᵀ + s · x̃ · aᵀ · bᵀ) + (x - x̃) · wᵀ + bias      x̃ = dropout(x)
 * dm = column sums of dy * (x̃ · wᵀ + s · x̃ · aᵀ · bᵀ) / c
 * }</pre>
 *
 * and everything else as for LoRA with g * dy in the place of dy. Without dropout the second
 * product is not there. The parts are the operators of a plain linear; columns are scaled in strips
 * of rows, so that no tensor of the output's size exists in f32.
 */
final class DoraBranch {
  /** Elements that exist in f32 at a time. */
  private static final long STRIP_ELEMENTS = 1 << 18;

  /** A row of zeros has no direction, and stays zero. */
  private static final double SMALLEST_NORM = 1e-30;

  private DoraBranch() {}

  private static DoraMagnitude dora(LoraLayer branch) {
    return Objects.requireNonNull(branch.dora());
  }

  private static long stripRows(long cols) {
    return Math.max(1, STRIP_ELEMENTS / Math.max(1, cols));
  }

  /** As {@link LinearLayer#forward}. */
  static LinearLayer.Saved forward(
      Pass pass,
      LinearLayer layer,
      LoraLayer branch,
      DeviceTensor x,
      @Nullable DeviceTensor residual,
      @Nullable DeviceTensor y) {
    if (dora(branch).isStale()) {
      computeNorms(pass, layer.weight(), branch);
    }
    Dropout mask = pass.dropout(branch.dropout(), layer.number());
    LoraTerm term = branch.term(pass.loraCompute(), Dropout.NONE);
    DeviceTensor xa = pass.arena().allocate(DType.F32, x.rows(), branch.rank());
    DeviceTensor product = pass.activation(x.rows(), layer.out());
    TensorArena.Mark mark = pass.arena().mark();
    if (mask.probability() == 0) {
      layer.product(pass, x, term, null, null, product, xa);
      if (y != null) {
        combine(pass, branch, product, layer.bias(), residual, y);
      }
    } else {
      DeviceTensor kept = pass.activation(x.rows(), x.cols());
      DeviceTensor rest = pass.activation(x.rows(), x.cols());
      split(pass, mask, x, kept, rest);
      layer.product(pass, kept, term, null, null, product, xa);
      if (y != null) {
        combine(pass, branch, product, null, residual, y);
        layer.product(pass, rest, null, layer.bias(), y, y, null);
      }
    }
    pass.arena().release(mark);
    return new LinearLayer.Saved(x, xa, product);
  }

  /** As {@link LinearLayer#backward}, without what is trained of the layer itself. */
  static void backward(
      Pass pass,
      LinearLayer layer,
      LoraLayer branch,
      LinearLayer.Saved saved,
      DeviceTensor dy,
      @Nullable DeviceTensor dx,
      boolean accumulate) {
    KernelPack pack = pass.pack();
    TensorArena arena = pass.arena();
    TensorArena.Mark mark = arena.mark();
    Dropout dropout = pass.dropout(branch.dropout(), layer.number());
    DeviceTensor dz = pass.activation(dy.rows(), dy.cols());
    scaleGradient(pass, branch, Objects.requireNonNull(saved.product()), dy, dz);
    DeviceTensor dyb = arena.allocate(DType.F32, dy.rows(), branch.rank());
    LoraTerm plain = branch.term(pass.loraCompute(), Dropout.NONE);
    if (dx == null) {
      Linear.backwardInput(pack, dz, null, plain, null, false, dyb);
    } else if (dropout.probability() == 0) {
      Linear.backwardInput(pack, dz, layer.weight(), plain, dx, accumulate, dyb);
    } else {
      DeviceTensor ofKept = pass.activation(dx.rows(), dx.cols());
      Linear.backwardInput(pack, dz, layer.weight(), plain, ofKept, false, dyb);
      DeviceTensor ofRest = accumulate ? pass.activation(dx.rows(), dx.cols()) : dx;
      Linear.backwardInput(pack, dy, layer.weight(), null, ofRest, false, null);
      join(pass, dropout, ofKept, ofRest, dx, accumulate);
    }
    Lora.weightGradient(
        pack,
        branch.term(pass.loraCompute(), dropout),
        saved.x(),
        dz,
        Objects.requireNonNull(saved.xa()),
        dyb,
        branch.a().gradient(),
        branch.b().gradient());
    arena.release(mark);
  }

  // ---------------------------------------------------------------- norms

  /**
   * c = norms of the rows of w + s * b * a, and remembers them. What is dequantized for it is gone
   * when this returns.
   */
  static void computeNorms(Pass pass, Weight weight, LoraLayer branch) {
    norms(pass.pack(), pass.arena(), pass.compute(), weight, branch, dora(branch).norm());
    dora(branch).computed();
  }

  /** m = c of today's weights. */
  static void initialise(Weight weight, LoraLayer branch, DType compute) {
    DoraMagnitude dora = dora(branch);
    KernelPack pack = dora.norm().pack();
    try (TensorArena arena = new TensorArena(pack)) {
      norms(pack, arena, compute, weight, branch, dora.magnitude().value());
    }
    dora.invalidate();
  }

  private static void norms(
      KernelPack pack,
      TensorArena arena,
      DType compute,
      Weight weight,
      LoraLayer branch,
      DeviceTensor norms) {
    TensorArena.Mark mark = arena.mark();
    DeviceTensor dense = DenseWeights.of(pack, arena, weight, compute);
    long most = Math.min(weight.rows(), stripRows(weight.cols()));
    DeviceTensor strip = arena.allocate(DType.F32, most, weight.cols());
    DeviceTensor scaled = arena.allocate(DType.F32, most, branch.rank());
    Weight a = Weight.dense(branch.a().value());
    for (long first = 0; first < weight.rows(); first += most) {
      long n = Math.min(most, weight.rows() - first);
      DeviceTensor sum = strip.rows(0, n);
      DeviceTensor sb = scaled.rows(0, n);
      if (!pack.isDryRun()) {
        try (PointerScope scope = new PointerScope()) {
          TorchBridge.view(sum).copy_(TorchBridge.view(dense.rows(first, n)));
          TorchBridge.view(sb)
              .copy_(
                  TorchBridge.view(branch.b().value().rows(first, n))
                      .mul(new Scalar((double) branch.scaling())));
        }
      }
      Linear.backwardInput(pack, sb, a, null, sum, true, null);
      if (!pack.isDryRun()) {
        try (PointerScope scope = new PointerScope()) {
          Tensor values = TorchBridge.view(sum);
          TorchBridge.view(norms.rows(first, n))
              .copy_(values.mul_(values).sum(1).sqrt_().clamp_min_(new Scalar(SMALLEST_NORM)));
        }
      }
    }
    arena.release(mark);
  }

  // ---------------------------------------------------------------- elementwise parts

  private static Tensor scale(LoraLayer branch) {
    DoraMagnitude dora = dora(branch);
    return TorchBridge.view(dora.magnitude().value()).div(TorchBridge.view(dora.norm()));
  }

  /** y = g * product + bias + residual, rounded once. */
  private static void combine(
      Pass pass,
      LoraLayer branch,
      DeviceTensor product,
      @Nullable DeviceTensor bias,
      @Nullable DeviceTensor residual,
      DeviceTensor y) {
    if (pass.pack().isDryRun()) {
      return;
    }
    long most = stripRows(y.cols());
    try (PointerScope all = new PointerScope()) {
      Tensor g = scale(branch);
      Tensor b = bias == null ? null : TorchBridge.view(bias).to(ScalarType.Float);
      for (long first = 0; first < y.rows(); first += most) {
        long n = Math.min(most, y.rows() - first);
        try (PointerScope scope = new PointerScope()) {
          Tensor sum = TorchBridge.view(product.rows(first, n)).mul(g);
          if (b != null) {
            sum.add_(b);
          }
          if (residual != null) {
            sum.add_(TorchBridge.view(residual.rows(first, n)));
          }
          TorchBridge.view(y.rows(first, n)).copy_(sum);
        }
      }
    }
  }

  /** dz = g * dy; adds the column sums of dy * product / c to the gradient of m. */
  private static void scaleGradient(
      Pass pass, LoraLayer branch, DeviceTensor product, DeviceTensor dy, DeviceTensor dz) {
    KernelPack pack = pass.pack();
    TensorArena arena = pass.arena();
    TensorArena.Mark mark = arena.mark();
    DoraMagnitude dora = dora(branch);
    DeviceTensor sums = arena.allocate(DType.F32, dy.cols());
    sums.zero();
    long most = Math.min(dy.rows(), stripRows(dy.cols()));
    DeviceTensor strip = arena.allocate(DType.F32, most, dy.cols());
    try (PointerScope all = new PointerScope()) {
      Tensor g = pack.isDryRun() ? null : scale(branch);
      for (long first = 0; first < dy.rows(); first += most) {
        long n = Math.min(most, dy.rows() - first);
        DeviceTensor terms = strip.rows(0, n);
        if (g != null) {
          try (PointerScope scope = new PointerScope()) {
            Tensor d = TorchBridge.view(dy.rows(first, n));
            TorchBridge.view(dz.rows(first, n)).copy_(d.mul(g));
            TorchBridge.view(terms)
                .copy_(d.to(ScalarType.Float).mul(TorchBridge.view(product.rows(first, n))));
          }
        }
        // The operator's column sums do not depend on the number of threads.
        Linear.weightGradient(pack, terms, terms, null, sums);
      }
      if (g != null) {
        TorchBridge.view(dora.magnitude().gradient())
            .add_(TorchBridge.view(sums).div(TorchBridge.view(dora.norm())));
      }
    }
    arena.release(mark);
  }

  // ---------------------------------------------------------------- dropout

  /** kept = dropout(x), rest = x - kept. */
  private static void split(
      Pass pass, Dropout mask, DeviceTensor x, DeviceTensor kept, DeviceTensor rest) {
    masks(
        pass,
        mask,
        x.rows(),
        x.cols(),
        (first, n, factors) -> {
          Tensor from = TorchBridge.view(x.rows(first, n));
          Tensor part = from.mul(factors);
          TorchBridge.view(kept.rows(first, n)).copy_(part);
          TorchBridge.view(rest.rows(first, n)).copy_(part.neg_().add_(from));
        });
  }

  /** dx (+)= mask * ofKept + (1 - mask) * ofRest. */
  private static void join(
      Pass pass,
      Dropout mask,
      DeviceTensor ofKept,
      DeviceTensor ofRest,
      DeviceTensor dx,
      boolean accumulate) {
    masks(
        pass,
        mask,
        dx.rows(),
        dx.cols(),
        (first, n, factors) -> {
          Tensor other = TorchBridge.view(ofRest.rows(first, n)).to(ScalarType.Float);
          Tensor sum = TorchBridge.view(ofKept.rows(first, n)).sub(other).mul_(factors).add_(other);
          Tensor target = TorchBridge.view(dx.rows(first, n));
          target.copy_(accumulate ? sum.add_(target) : sum);
        });
  }

  private interface MaskedStrip {
    void apply(long first, long rows, Tensor factors);
  }

  /**
   * The mask, 0 or 1 / (1 - p) an element, in f32 and in strips of rows. It is what the branch of a
   * linear gives back when everything but the mask is one: the gradient of the input of a weight of
   * zeros with one row.
   */
  private static void masks(Pass pass, Dropout mask, long rows, long cols, MaskedStrip use) {
    KernelPack pack = pass.pack();
    TensorArena arena = pass.arena();
    TensorArena.Mark mark = arena.mark();
    long most = Math.min(rows, stripRows(cols));
    DeviceTensor zeros = arena.allocate(DType.F32, 1, cols);
    DeviceTensor ones = arena.allocate(DType.F32, 1, cols);
    DeviceTensor one = arena.allocate(DType.F32, 1, 1);
    DeviceTensor dy = arena.allocate(DType.F32, most, 1);
    DeviceTensor dyb = arena.allocate(DType.F32, most, 1);
    DeviceTensor factors = arena.allocate(DType.F32, most, cols);
    zeros.zero();
    fillWithOnes(ones);
    fillWithOnes(one);
    fillWithOnes(dy);
    for (long first = 0; first < rows; first += most) {
      long n = Math.min(most, rows - first);
      DeviceTensor part = factors.rows(0, n);
      LoraTerm term =
          new LoraTerm(
              1,
              1f,
              pass.loraCompute(),
              ones,
              one,
              new Dropout(
                  mask.probability(),
                  mask.seed(),
                  mask.step(),
                  mask.microBatch(),
                  mask.linear(),
                  mask.rowOffset() + first));
      Linear.backwardInput(
          pack, dy.rows(0, n), Weight.dense(zeros), term, part, false, dyb.rows(0, n));
      if (!pack.isDryRun()) {
        try (PointerScope scope = new PointerScope()) {
          use.apply(first, n, TorchBridge.view(part));
        }
      }
    }
    arena.release(mark);
  }

  private static void fillWithOnes(DeviceTensor tensor) {
    if (!tensor.pack().isDryRun()) {
      try (PointerScope scope = new PointerScope()) {
        TorchBridge.view(tensor).fill_(new Scalar(1.0));
      }
    }
  }
}
