// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tensor;

import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;

/**
 * A stack of device memory for what a step holds: activations, saved tensors, gradients of
 * activations.
 *
 * <p>A step allocates and frees in the order of its layers, so freeing is moving a mark back: no
 * allocator call, no page fault and no garbage collector on the hot path, and the peak is a number
 * one can read. Memory comes in slabs that libtorch lends (so that on a GPU the model and
 * libtorch's operators share one caching allocator) and that are kept for the next step.
 *
 * <p>Tensors of a released mark must not be used any more; their memory is handed out again. Not
 * thread-safe.
 */
public final class TensorArena implements AutoCloseable {

  private static final long SLAB_BYTES = 16L << 20;
  private static final long ALIGNMENT = 64;

  private final KernelPack pack;
  private final List<Slab> slabs = new ArrayList<>();
  private int slab = 0;
  private long offset = 0;
  private long used = 0;
  private long peak = 0;

  public TensorArena(KernelPack pack) {
    this.pack = pack;
  }

  /** A point to return to. */
  public record Mark(int slab, long offset, long used) {}

  /** The current top of the stack. */
  public Mark mark() {
    return new Mark(slab, offset, used);
  }

  /**
   * Frees everything allocated since {@code mark}. An empty arena of several slabs becomes one of
   * the size it needed.
   */
  public void release(Mark mark) {
    slab = mark.slab();
    offset = mark.offset();
    used = mark.used();
    if (used == 0 && slabs.size() > 1) {
      slabs.forEach(Slab::close);
      slabs.clear();
      if (pack.deviceKind() == DeviceKind.CUDA) {
        // libtorch keeps freed memory for itself; a pack that allocates could not have it.
        torch.emptyCache();
      }
      slabs.add(new Slab(pack, peak));
    }
  }

  /**
   * Uninitialised memory for a contiguous tensor, aligned to 64 bytes.
   *
   * @throws InputException when the device has no room
   */
  public DeviceTensor allocate(DType dtype, long... shape) {
    long elements = 1;
    for (long extent : shape) {
      elements = Math.multiplyExact(elements, extent);
    }
    long bytes = roundUp(Math.max(1, Math.multiplyExact(elements, dtype.bytes())));
    while (slab < slabs.size() && offset + bytes > slabs.get(slab).buffer.bytes()) {
      slab++;
      offset = 0;
    }
    if (slab == slabs.size()) {
      slabs.add(new Slab(pack, Math.max(SLAB_BYTES, bytes)));
      offset = 0;
    }
    DeviceTensor tensor = DeviceTensor.of(slabs.get(slab).buffer, offset, dtype, shape);
    offset += bytes;
    used += bytes;
    peak = Math.max(peak, used);
    return tensor;
  }

  /** Bytes of all slabs. */
  public long slabBytes() {
    return slabs.stream().mapToLong(s -> s.buffer.bytes()).sum();
  }

  /** Most bytes that were in use at once. */
  public long peakBytes() {
    return peak;
  }

  @Override
  public void close() {
    slabs.forEach(Slab::close);
    slabs.clear();
    slab = 0;
    offset = 0;
    used = 0;
  }

  private static long roundUp(long bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }

  /** One slab: a libtorch byte tensor and the pack's view of it. */
  private static final class Slab implements AutoCloseable {
    private final @Nullable Tensor tensor;
    private final DeviceBuffer buffer;

    Slab(KernelPack pack, long bytes) {
      if (pack.isDryRun()) {
        tensor = null;
        buffer = DeviceBuffer.allocate(pack, bytes);
        return;
      }
      Tensor memory;
      try (PointerScope scope = new PointerScope()) {
        memory =
            torch
                .empty(new long[] {bytes}, TorchBridge.options(pack, DType.U8), null)
                .retainReference();
      } catch (RuntimeException e) {
        // libtorch has no exception of its own for this; its text has a native stack trace behind
        // the first line.
        throw new InputException(
            "no memory for "
                + Text.bytes(bytes)
                + " of activations; use gradient_checkpointing: true, a smaller"
                + " per_device_train_batch_size or sequence_length, or a shorter prompt",
            e);
      }
      tensor = memory;
      buffer = DeviceBuffer.wrap(pack, memory.data_ptr(), bytes);
    }

    @Override
    public void close() {
      buffer.close();
      if (tensor != null) {
        tensor.close();
      }
    }
  }
}
