// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.nio.ByteBuffer;
import java.util.Arrays;
import org.bytedeco.javacpp.Pointer;

/**
 * A typed, row-major view of a {@link DeviceBuffer}. It borrows the buffer, owns nothing and needs
 * no close.
 *
 * <p>The last dimension is contiguous. All dimensions before it together count rows that lie {@link
 * #rowStride} elements apart; a tensor of one dimension is a single row. Java-side conversions are
 * for small tensors and tests: large data goes through {@link DeviceBuffer#copyIn}.
 */
public final class DeviceTensor {
  private final DeviceBuffer buffer;
  private final long byteOffset;
  private final DType dtype;
  private final long[] shape;
  private final long rows;
  private final long cols;
  private final long rowStride;

  private DeviceTensor(
      DeviceBuffer buffer, long byteOffset, DType dtype, long[] shape, long rowStride) {
    this.buffer = buffer;
    this.byteOffset = byteOffset;
    this.dtype = dtype;
    this.shape = shape;
    this.cols = shape[shape.length - 1];
    long product = 1;
    for (int i = 0; i + 1 < shape.length; i++) {
      product = Math.multiplyExact(product, shape[i]);
    }
    this.rows = product;
    this.rowStride = rowStride;
    long extent =
        rows == 0 || cols == 0 ? 0 : Math.addExact(Math.multiplyExact(rows - 1, rowStride), cols);
    long end = Math.addExact(byteOffset, Math.multiplyExact(extent, (long) dtype.bytes()));
    if (byteOffset < 0 || end > buffer.bytes()) {
      throw new IndexOutOfBoundsException(
          dtype
              + " "
              + Arrays.toString(shape)
              + " at byte "
              + byteOffset
              + " needs "
              + end
              + " bytes, the buffer has "
              + buffer.bytes());
    }
    if (byteOffset % dtype.bytes() != 0) {
      throw new IllegalArgumentException(dtype + " cannot start at byte " + byteOffset);
    }
  }

  /**
   * A contiguous view.
   *
   * @param byteOffset start within the buffer, a multiple of the element size
   * @param shape at least one dimension, none negative
   * @throws IndexOutOfBoundsException when the buffer is too small
   */
  public static DeviceTensor of(DeviceBuffer buffer, long byteOffset, DType dtype, long... shape) {
    if (shape.length == 0) {
      throw new IllegalArgumentException("a tensor has at least one dimension");
    }
    for (long size : shape) {
      if (size < 0) {
        throw new IllegalArgumentException(
            "a dimension cannot be negative, found " + Arrays.toString(shape));
      }
    }
    return new DeviceTensor(buffer, byteOffset, dtype, shape.clone(), shape[shape.length - 1]);
  }

  /**
   * A view of rows that lie {@code rowStride} elements apart.
   *
   * @param rowStride at least {@code cols}
   */
  public static DeviceTensor strided(
      DeviceBuffer buffer, long byteOffset, DType dtype, long rows, long cols, long rowStride) {
    if (rows < 0 || cols < 0 || rowStride < cols) {
      throw new IllegalArgumentException(
          "[" + rows + ", " + cols + "] cannot have " + rowStride + " elements between rows");
    }
    return new DeviceTensor(buffer, byteOffset, dtype, new long[] {rows, cols}, rowStride);
  }

  /** Element type. */
  public DType dtype() {
    return dtype;
  }

  /** The dimensions, a copy. */
  public long[] shape() {
    return shape.clone();
  }

  long[] shapeView() {
    return shape;
  }

  /** Product of all dimensions but the last. */
  public long rows() {
    return rows;
  }

  /** The last dimension. */
  public long cols() {
    return cols;
  }

  /** Elements between the starts of two rows. */
  public long rowStride() {
    return rowStride;
  }

  /** Product of all dimensions. */
  public long elements() {
    return rows * cols;
  }

  /** {@code elements() * dtype().bytes()}: the payload, without gaps between rows. */
  public long bytes() {
    return elements() * dtype.bytes();
  }

  /** Whether the rows lie without gaps. */
  public boolean isContiguous() {
    return rowStride == cols || rows <= 1;
  }

  /** The memory this view borrows. */
  public DeviceBuffer buffer() {
    return buffer;
  }

  /** The pack whose device the memory is on. */
  public KernelPack pack() {
    return buffer.pack();
  }

  /** Start of the view within {@link #buffer}, in bytes. */
  public long byteOffset() {
    return byteOffset;
  }

  /**
   * The first element, for handing it to another JavaCPP library. Borrowed from {@link #buffer}.
   */
  public Pointer pointer() {
    return new DeviceAddress(address());
  }

  /** Address of the first element. */
  long address() {
    return buffer.address() + byteOffset;
  }

  /** Elements from the first to the last of the view, gaps included. */
  long extent() {
    return rows == 0 || cols == 0 ? 0 : (rows - 1) * rowStride + cols;
  }

  /** A view of {@code count} entries of the first dimension, from {@code first} on. */
  public DeviceTensor rows(long first, long count) {
    checkRange(first, count, shape[0]);
    long[] part = shape.clone();
    part[0] = count;
    if (shape.length == 1) {
      return new DeviceTensor(buffer, byteOffset + first * dtype.bytes(), dtype, part, count);
    }
    long rowsPerEntry = 1;
    for (int i = 1; i + 1 < shape.length; i++) {
      rowsPerEntry *= shape[i];
    }
    // An empty view may start at the end of the buffer.
    long start = byteOffset + first * rowsPerEntry * rowStride * dtype.bytes();
    return new DeviceTensor(buffer, Math.min(start, buffer.bytes()), dtype, part, rowStride);
  }

  /** A view of {@code count} columns from {@code first} on; rows stay as far apart as they were. */
  public DeviceTensor columns(long first, long count) {
    checkRange(first, count, cols);
    long[] part = shape.clone();
    part[part.length - 1] = count;
    return new DeviceTensor(
        buffer,
        byteOffset + first * dtype.bytes(),
        dtype,
        part,
        shape.length == 1 ? count : rowStride);
  }

  /**
   * The same elements under other dimensions.
   *
   * @throws IllegalArgumentException when the element count differs, or the view has gaps and its
   *     last dimension would change
   */
  public DeviceTensor reshape(long... newShape) {
    if (newShape.length == 0) {
      throw new IllegalArgumentException("a tensor has at least one dimension");
    }
    long product = 1;
    boolean negative = false;
    for (long size : newShape) {
      product = Math.multiplyExact(product, size);
      negative |= size < 0;
    }
    boolean sameRows = newShape[newShape.length - 1] == cols;
    if (negative || product != elements() || (!isContiguous() && !sameRows)) {
      throw new IllegalArgumentException(this + " cannot be seen as " + Arrays.toString(newShape));
    }
    long[] copy = newShape.clone();
    return new DeviceTensor(
        buffer, byteOffset, dtype, copy, isContiguous() ? copy[copy.length - 1] : rowStride);
  }

  private static void checkRange(long first, long count, long size) {
    if (first < 0 || count < 0 || first > size - count) {
      throw new IndexOutOfBoundsException(
          count + " from " + first + " do not lie in a dimension of " + size);
    }
  }

  /**
   * Converts and copies values into a tensor of F32, BF16 or F16, in row-major order, rounding to
   * nearest even.
   */
  public void copyFrom(float[] values) {
    checkCount(values.length);
    switch (dtype) {
      case F32 ->
          transferIn((staging, from, count) -> staging.asFloatBuffer().put(values, from, count));
      case BF16 ->
          transferIn(
              (staging, from, count) -> {
                for (int i = 0; i < count; i++) {
                  staging.putShort(2 * i, FloatBits.toBf16(values[from + i]));
                }
              });
      case F16 ->
          transferIn(
              (staging, from, count) -> {
                for (int i = 0; i < count; i++) {
                  staging.putShort(2 * i, FloatBits.toF16(values[from + i]));
                }
              });
      default -> throw wrongType("float");
    }
  }

  /** Copies values into an I32 tensor. */
  public void copyFrom(int[] values) {
    if (dtype != DType.I32) {
      throw wrongType("int");
    }
    checkCount(values.length);
    transferIn((staging, from, count) -> staging.asIntBuffer().put(values, from, count));
  }

  /** Copies the raw bytes of all elements, little-endian, of whatever type. */
  public void copyFrom(byte[] values) {
    if (values.length != bytes()) {
      throw new IllegalArgumentException(
          values.length + " bytes do not fit " + this + " of " + bytes() + " bytes");
    }
    int width = dtype.bytes();
    transferIn((staging, from, count) -> staging.put(0, values, from * width, count * width));
  }

  /** Copies another tensor of the same type and shape; it may be on another pack. */
  public void copyFrom(DeviceTensor source) {
    Checks.type("source", source, dtype);
    Checks.sameShape("source", source, "target", this);
    boolean host =
        buffer.pack().deviceKind() == DeviceKind.CPU
            && source.buffer.pack().deviceKind() == DeviceKind.CPU;
    boolean whole = isContiguous() && source.isContiguous();
    long pieces = whole ? Math.min(1, rows) : rows;
    long pieceBytes = (whole ? elements() : cols) * dtype.bytes();
    for (long piece = 0; piece < pieces; piece++) {
      long to = piece * rowStride * dtype.bytes();
      long from = piece * source.rowStride * dtype.bytes();
      if (host) {
        Pointer.memmove(
            new DeviceAddress(address() + to),
            new DeviceAddress(source.address() + from),
            pieceBytes);
      } else {
        bridge(source, from, to, pieceBytes);
      }
    }
  }

  private void bridge(DeviceTensor source, long from, long to, long count) {
    byte[] chunk = new byte[(int) Math.min(count, KernelPack.STAGING_BYTES)];
    for (long done = 0; done < count; ) {
      int size = (int) Math.min(chunk.length, count - done);
      ByteBuffer view = ByteBuffer.wrap(chunk, 0, size);
      source.buffer.copyOut(source.byteOffset + from + done, view);
      buffer.copyIn(byteOffset + to + done, view);
      done += size;
    }
  }

  /** The elements of an F32, BF16 or F16 tensor in row-major order, widened. */
  public float[] toFloats() {
    float[] values = new float[Math.toIntExact(elements())];
    switch (dtype) {
      case F32 ->
          transferOut((staging, from, count) -> staging.asFloatBuffer().get(values, from, count));
      case BF16 ->
          transferOut(
              (staging, from, count) -> {
                for (int i = 0; i < count; i++) {
                  values[from + i] = FloatBits.fromBf16(staging.getShort(2 * i));
                }
              });
      case F16 ->
          transferOut(
              (staging, from, count) -> {
                for (int i = 0; i < count; i++) {
                  values[from + i] = FloatBits.fromF16(staging.getShort(2 * i));
                }
              });
      default -> throw wrongType("float");
    }
    return values;
  }

  /** The elements of an I32 tensor. */
  public int[] toInts() {
    if (dtype != DType.I32) {
      throw wrongType("int");
    }
    int[] values = new int[Math.toIntExact(elements())];
    transferOut((staging, from, count) -> staging.asIntBuffer().get(values, from, count));
    return values;
  }

  /** The raw bytes of all elements, little-endian, of whatever type. */
  public byte[] toBytes() {
    byte[] values = new byte[Math.toIntExact(bytes())];
    int width = dtype.bytes();
    transferOut((staging, from, count) -> staging.get(0, values, from * width, count * width));
    return values;
  }

  /** Sets every byte of every element to zero. */
  public void zero() {
    if (isContiguous()) {
      buffer.fill(byteOffset, bytes(), 0);
      return;
    }
    for (long row = 0; row < rows; row++) {
      buffer.fill(byteOffset + row * rowStride * dtype.bytes(), cols * dtype.bytes(), 0);
    }
  }

  /**
   * Moves {@code count} elements between a Java array, from index {@code from} on, and the start of
   * the staging buffer.
   */
  private interface Conversion {
    void apply(ByteBuffer staging, int from, int count);
  }

  private void transferIn(Conversion conversion) {
    forEachChunk(
        (staging, from, count, offset) -> {
          conversion.apply(staging, from, count);
          buffer.copyIn(offset, staging.limit(count * dtype.bytes()));
          staging.clear();
        });
  }

  private void transferOut(Conversion conversion) {
    forEachChunk(
        (staging, from, count, offset) -> {
          buffer.copyOut(offset, staging.limit(count * dtype.bytes()));
          staging.clear();
          conversion.apply(staging, from, count);
        });
  }

  private interface Chunk {
    void move(ByteBuffer staging, int from, int count, long offset);
  }

  private void forEachChunk(Chunk chunk) {
    KernelPack pack = buffer.pack();
    synchronized (pack.lock()) {
      ByteBuffer staging = pack.staging();
      long runs = isContiguous() ? Math.min(1, rows) : rows;
      long runElements = isContiguous() ? elements() : cols;
      int capacity = staging.capacity() / dtype.bytes();
      for (long run = 0; run < runs; run++) {
        for (long done = 0; done < runElements; ) {
          int count = (int) Math.min(capacity, runElements - done);
          long offset = byteOffset + (run * rowStride + done) * dtype.bytes();
          chunk.move(staging, (int) (run * runElements + done), count, offset);
          done += count;
        }
      }
    }
  }

  private void checkCount(int length) {
    if (length != elements()) {
      throw new IllegalArgumentException(
          length + " values do not fit " + this + " of " + elements() + " elements");
    }
  }

  private IllegalArgumentException wrongType(String javaType) {
    return new IllegalArgumentException(
        "a tensor of " + dtype + " cannot be exchanged as " + javaType + "[]");
  }

  @Override
  public String toString() {
    return dtype
        + " "
        + Arrays.toString(shape)
        + (isContiguous() ? "" : " with row stride " + rowStride);
  }
}
