// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.QuantizationFp8;
import org.qlora4j.kernels.QuantizationInt8;

/**
 * A tensor's elements as f32, some rows at a time, whatever it is stored as. A dense tensor is read
 * through a buffer; a quantized one is dequantized whole on the pack's device, not rounded.
 */
public final class DenseRows implements AutoCloseable {
  private static final int BUFFER_BYTES = 1 << 20;

  /** Elements that are compared together. */
  private static final int COMPARED_ELEMENTS = 1 << 18;

  private final long rows;
  private final long cols;
  private final DType stored;
  private final Reader reader;
  private final Runnable release;
  private final ByteBuffer host =
      ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);

  /** Rows of another matrix of the same shape. */
  @FunctionalInterface
  public interface Held {
    /**
     * Reads rows.
     *
     * @param values row-major, at least {@code count * cols} long
     */
    void read(long firstRow, int count, float[] values);
  }

  /** Fills a buffer with bytes from an offset on. */
  private interface Reader {
    void read(long byteOffset, ByteBuffer destination);
  }

  private DenseRows(long rows, long cols, DType stored, Reader reader, Runnable release) {
    this.rows = rows;
    this.cols = cols;
    this.stored = stored;
    this.reader = reader;
    this.release = release;
  }

  /** A tensor of F32, BF16 or F16: its first dimension are the rows, a vector is one row. */
  public static DenseRows of(TensorSource source) {
    long[] shape = source.shape();
    long rows = shape.length < 2 ? 1 : shape[0];
    long cols = rows == 0 ? 0 : source.elements() / rows;
    return new DenseRows(rows, cols, source.dtype(), source::read, () -> {});
  }

  /** A weight that a checkpoint holds in 4 or 8 bits. */
  public static DenseRows of(KernelPack pack, QuantizedTensors tensors) {
    ByteBuffer host = ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    try (QuantizedWeight weight = tensors.load(pack, host)) {
      return dequantized(pack, weight);
    }
  }

  /** A matrix of F32, BF16 or F16 after it was quantized and dequantized, as a training sees it. */
  public static DenseRows quantized(
      KernelPack pack, TensorSource source, QuantizationConfig config) {
    ByteBuffer host = ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    try (DeviceBuffer memory = DeviceBuffer.allocate(pack, source.bytes())) {
      source.readThrough(host, memory::copyIn);
      DeviceTensor dense = DeviceTensor.of(memory, 0, source.dtype(), source.shape());
      try (QuantizedWeight weight = QuantizedWeight.quantize(pack, dense, config)) {
        return dequantized(pack, weight);
      }
    }
  }

  private static DenseRows dequantized(KernelPack pack, QuantizedWeight weight) {
    long elements = Math.multiplyExact(weight.rows(), weight.cols());
    DeviceBuffer memory = DeviceBuffer.allocate(pack, Math.multiplyExact(elements, Float.BYTES));
    try {
      DeviceTensor dense = DeviceTensor.of(memory, 0, DType.F32, weight.rows(), weight.cols());
      switch (weight.config().format()) {
        case NF4, FP4 -> Quantization4Bit.dequantize(pack, weight.weight(), dense);
        case INT8 -> QuantizationInt8.dequantize(pack, weight.codes(), weight.absmax(), dense);
        case FP8 -> QuantizationFp8.dequantize(pack, weight.codes(), weight.absmax(), dense);
        case DENSE -> throw new IllegalStateException("a quantized weight is never dense");
      }
      return new DenseRows(
          weight.rows(),
          weight.cols(),
          DType.F32,
          (at, destination) -> {
            memory.copyOut(at, destination);
            destination.position(destination.limit());
          },
          memory::close);
    } catch (RuntimeException e) {
      memory.close();
      throw e;
    }
  }

  /** First dimension. */
  public long rows() {
    return rows;
  }

  /** Elements of a row. */
  public long cols() {
    return cols;
  }

  /** Rows that {@code elements} hold: at least one, at most all. */
  public int rowsOf(int elements) {
    return (int) Math.max(1, Math.min(rows, elements / Math.max(1, cols)));
  }

  /**
   * Reads rows.
   *
   * @param values row-major, at least {@code count * cols} long
   */
  public void read(long firstRow, int count, float[] values) {
    int elements = Math.toIntExact(Math.multiplyExact((long) count, cols));
    int perRead = BUFFER_BYTES / stored.bytes();
    for (int done = 0; done < elements; done += perRead) {
      int next = Math.min(perRead, elements - done);
      host.clear().limit(next * stored.bytes());
      reader.read((firstRow * cols + done) * stored.bytes(), host);
      host.flip();
      switch (stored) {
        case F32 -> host.asFloatBuffer().get(values, done, next);
        case BF16 -> {
          for (int i = 0; i < next; i++) {
            values[done + i] = FloatBits.fromBf16(host.getShort());
          }
        }
        case F16 -> {
          for (int i = 0; i < next; i++) {
            values[done + i] = FloatBits.fromF16(host.getShort());
          }
        }
        default -> throw new IllegalArgumentException("expected F32, BF16 or F16, found " + stored);
      }
    }
  }

  /** Rows that {@link #areHeldAs} reads at most at a time. */
  public int comparedRows() {
    return rowsOf(COMPARED_ELEMENTS);
  }

  /** Whether the other matrix has these values, also as rounded to 16 bits. */
  public boolean areHeldAs(Held other) {
    int chunk = comparedRows();
    float[] values = new float[Math.toIntExact(chunk * cols)];
    float[] held = new float[values.length];
    for (long first = 0; first < rows; first += chunk) {
      int count = (int) Math.min(chunk, rows - first);
      read(first, count, values);
      other.read(first, count, held);
      int elements = Math.toIntExact(count * cols);
      for (int i = 0; i < elements; i++) {
        if (!FloatEncoding.isHeldAs(values[i], held[i])) {
          return false;
        }
      }
    }
    return true;
  }

  @Override
  public void close() {
    release.run();
  }
}
