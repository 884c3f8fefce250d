// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tensor;

import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.kernels.HeadView;
import org.qlora4j.kernels.KernelPack;

/**
 * What libtorch does for the model between the pack's operators: type conversion, strided copies,
 * embedding rows, and the elementwise steps that only some architectures have.
 *
 * <p>Every method sees device memory through {@code from_blob} views on the device of the memory's
 * pack, copies nothing it does not say, and closes what it made before it returns. On a GPU nothing
 * is waited for: libtorch's work and the pack's are in the order of one stream ({@link
 * ComputeDevice}).
 */
public final class TorchBridge {

  private TorchBridge() {}

  /**
   * Copies {@code source} to {@code target} of the same shape, converting the element type (one
   * rounding, to nearest even).
   */
  public static void copy(DeviceTensor source, DeviceTensor target) {
    if (source.elements() != target.elements()) {
      throw new IllegalArgumentException(
          "copy needs equal sizes, source has "
              + source.elements()
              + " elements, target "
              + target.elements());
    }
    if (source.elements() == 0 || target.pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      view(target).copy_(view(source).reshape(target.shape()));
    }
  }

  /**
   * Copies {@code heads} heads of {@code headDim} elements of the first {@code tokens} tokens. Used
   * to append keys and values to a cache laid out [head][position][head size].
   */
  public static void copyHeads(
      HeadView source, HeadView target, long tokens, long heads, long headDim) {
    source.check("source", source.base().dtype(), tokens, heads, headDim);
    target.check("target", target.base().dtype(), tokens, heads, headDim);
    if (tokens == 0 || target.base().pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      heads(target, 0, tokens, heads, headDim).copy_(heads(source, 0, tokens, heads, headDim));
    }
  }

  /**
   * out[i] = table[ids[i]], converted to the type of {@code out}. ids: i32 [n]; table [rows, cols];
   * out [n, cols].
   */
  public static void gatherRows(DeviceTensor table, DeviceTensor ids, DeviceTensor out) {
    if (ids.elements() == 0 || table.pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      view(out).copy_(view(table).index_select(0, view(ids)));
    }
  }

  /**
   * table[ids[i]] += rows[i], in f32 and in the order of i. table: f32 [rows, cols]; ids: i32 [n];
   * rows [n, cols].
   */
  public static void addRows(DeviceTensor table, DeviceTensor ids, DeviceTensor rows) {
    if (ids.elements() == 0 || table.pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      view(table).index_add_(0, view(ids), view(rows).to(ScalarType.Float));
    }
  }

  /** target += addend, added in the wider of their types and rounded once; equal shapes. */
  public static void add(DeviceTensor target, DeviceTensor addend) {
    if (target.elements() == 0 || target.pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      view(target).add_(view(addend));
    }
  }

  /** target[ids[i]] = rows[i]; rows that no id names become zero. ids: i32 [n], distinct. */
  public static void scatterRows(DeviceTensor rows, DeviceTensor ids, DeviceTensor target) {
    if (target.pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      Tensor to = view(target);
      to.zero_();
      if (ids.elements() > 0) {
        to.index_copy_(0, view(ids).to(ScalarType.Long), view(rows));
      }
    }
  }

  /** x *= factor, the factor first rounded to the type of {@code x}; F32 or BF16. */
  public static void scale(DeviceTensor x, float factor) {
    if (x.elements() == 0 || x.pack().isDryRun()) {
      return;
    }
    float rounded = x.dtype() == DType.BF16 ? FloatBits.roundToBf16(factor) : factor;
    try (PointerScope scope = new PointerScope()) {
      view(x).mul_(new Scalar(rounded));
    }
  }

  /**
   * x = cap * tanh(x / cap), a step at a time, each rounded to the type of {@code x}, as
   * transformers does.
   */
  public static void softcap(DeviceTensor x, float cap) {
    if (x.elements() == 0 || x.pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      view(x).div_(new Scalar(cap)).tanh_().mul_(new Scalar(cap));
    }
  }

  /**
   * dy becomes the gradient of {@link #softcap}'s input: dy * (1 - (y / cap)^2).
   *
   * @param y result of {@link #softcap}, overwritten
   */
  public static void softcapBackward(DeviceTensor y, float cap, DeviceTensor dy) {
    if (y.elements() == 0 || y.pack().isDryRun()) {
      return;
    }
    try (PointerScope scope = new PointerScope()) {
      Tensor gradient = view(dy);
      torch.tanh_backward_out(gradient, gradient, view(y).div_(new Scalar(cap)));
    }
  }

  /** A libtorch view of the tensor's memory; the caller closes it (or its PointerScope does). */
  public static Tensor view(DeviceTensor tensor) {
    long[] shape = tensor.shape();
    long[] strides = new long[shape.length];
    long stride = 1;
    for (int i = shape.length - 1; i >= 0; i--) {
      strides[i] = stride;
      stride *= i == shape.length - 1 && shape.length == 2 ? tensor.rowStride() : shape[i];
    }
    return torch.from_blob(
        tensor.pointer(), shape, strides, options(tensor.pack(), tensor.dtype()));
  }

  /**
   * A libtorch view [1, heads, tokens, headDim] of the tokens from {@code first} on, the shape that
   * its attention takes. At least one token.
   */
  static Tensor heads(HeadView view, long first, long tokens, long heads, long headDim) {
    DeviceTensor base = view.base();
    long start = view.elementOffset() + first * view.tokenStride();
    DeviceTensor origin =
        DeviceTensor.of(
            base.buffer(), base.byteOffset() + start * base.dtype().bytes(), base.dtype(), 1);
    return torch.from_blob(
        origin.pointer(),
        new long[] {1, heads, tokens, headDim},
        // The stride of the one batch is never used; it must only not look like a broadcast.
        new long[] {tokens * view.tokenStride(), view.headStride(), view.tokenStride(), 1},
        options(base.pack(), base.dtype()));
  }

  /** How libtorch makes tensors of this type in the memory of the pack's device. */
  static TensorOptions options(KernelPack pack, DType dtype) {
    TensorOptions options = new TensorOptions(scalarType(dtype));
    return switch (pack.deviceKind()) {
      case CPU -> options;
      case CUDA ->
          options.device(
              new DeviceOptional(new Device(torch.DeviceType.CUDA, (byte) pack.device())));
    };
  }

  private static ScalarType scalarType(DType dtype) {
    return switch (dtype) {
      case F32 -> ScalarType.Float;
      case BF16 -> ScalarType.BFloat16;
      case F16 -> ScalarType.Half;
      case I32 -> ScalarType.Int;
      case I64 -> ScalarType.Long;
      case U8 -> ScalarType.Byte;
      case I8 -> ScalarType.Char;
      case F8_E4M3 -> ScalarType.Float8_e4m3fn;
    };
  }
}
