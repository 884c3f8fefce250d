// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.util.ArrayList;
import java.util.List;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;

/**
 * Device memory of one test case. Every tensor lies between guard bytes and starts out filled with
 * NaN patterns, so a kernel that writes outside of its output, or reads an output it should only
 * write, is found.
 */
public final class DeviceMemory implements AutoCloseable {
  private static final int GUARD = 128;

  /** As F32 and as BF16 a NaN, as F16 a NaN, as an integer nothing a kernel computes. */
  private static final byte PATTERN = (byte) 0xff;

  private final KernelPack pack;
  private final List<DeviceBuffer> buffers = new ArrayList<>();

  /** Memory on {@code pack}. */
  public DeviceMemory(KernelPack pack) {
    this.pack = pack;
  }

  /** The pack whose memory this is. */
  public KernelPack pack() {
    return pack;
  }

  /** A contiguous tensor without meaningful content. */
  public DeviceTensor empty(DType type, long... shape) {
    long elements = 1;
    for (long size : shape) {
      elements *= size;
    }
    return DeviceTensor.of(allocate(elements * type.bytes()), GUARD, type, shape);
  }

  /** A matrix of {@code cols} columns in rows of {@code rowStride} elements. */
  public DeviceTensor strided(DType type, long rows, long cols, long rowStride) {
    return DeviceTensor.strided(
        allocate(rows * rowStride * type.bytes()), GUARD, type, rows, cols, rowStride);
  }

  /** A contiguous float tensor with these values, rounded to {@code type}. */
  public DeviceTensor of(DType type, float[] values, long... shape) {
    DeviceTensor tensor = empty(type, shape);
    tensor.copyFrom(values);
    return tensor;
  }

  /** A matrix with gaps between its rows. */
  public DeviceTensor ofStrided(DType type, float[] values, long rows, long cols, long rowStride) {
    DeviceTensor tensor = strided(type, rows, cols, rowStride);
    tensor.copyFrom(values);
    return tensor;
  }

  /** An I32 tensor. */
  public DeviceTensor of(int[] values, long... shape) {
    DeviceTensor tensor = empty(DType.I32, shape);
    tensor.copyFrom(values);
    return tensor;
  }

  /** A tensor with these raw bytes. */
  public DeviceTensor of(DType type, byte[] values, long... shape) {
    DeviceTensor tensor = empty(type, shape);
    tensor.copyFrom(values);
    return tensor;
  }

  /** A stored tensor in a shape of as many elements. */
  public DeviceTensor of(TensorSource source, long... shape) {
    return of(source.dtype(), source.toBytes(), shape);
  }

  /** A stored tensor as a vector. */
  public DeviceTensor vector(TensorSource source) {
    return of(source, source.elements());
  }

  /** A tensor of zeros. */
  public DeviceTensor zeros(DType type, long... shape) {
    DeviceTensor tensor = empty(type, shape);
    tensor.zero();
    return tensor;
  }

  private DeviceBuffer allocate(long bytes) {
    DeviceBuffer buffer = DeviceBuffer.allocate(pack, bytes + 2L * GUARD);
    buffers.add(buffer);
    buffer.fill(PATTERN);
    return buffer;
  }

  /** Checks the guard bytes. */
  public void checkGuards() {
    for (DeviceBuffer buffer : buffers) {
      byte[] front = new byte[GUARD];
      byte[] back = new byte[GUARD];
      buffer.copyOut(0, java.nio.ByteBuffer.wrap(front));
      buffer.copyOut(buffer.bytes() - GUARD, java.nio.ByteBuffer.wrap(back));
      for (int i = 0; i < GUARD; i++) {
        if (front[i] != PATTERN) {
          throw new AssertionError(
              pack.name()
                  + " wrote "
                  + (GUARD - i)
                  + " bytes before the start of a tensor of "
                  + (buffer.bytes() - 2L * GUARD)
                  + " bytes");
        }
        if (back[i] != PATTERN) {
          throw new AssertionError(
              pack.name()
                  + " wrote "
                  + i
                  + " bytes after the end of a tensor of "
                  + (buffer.bytes() - 2L * GUARD)
                  + " bytes");
        }
      }
    }
  }

  @Override
  public void close() {
    buffers.forEach(DeviceBuffer::close);
  }
}
