// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.Arrays;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.FloatBits;

/**
 * A tensor in a file: what it is, and its bytes (little-endian, row-major) wherever one asks for
 * them. Nothing is mapped or held; a caller reads through a buffer of its own, so that memory stays
 * bounded by that buffer.
 */
public interface TensorSource {

  /** The tensor's name in the file. */
  String name();

  /** The element type as the file names it. */
  StoredType storedType();

  /** The dimensions; empty for a scalar. The caller may change the array. */
  long[] shape();

  /** Bytes of the whole tensor. */
  long bytes();

  /** The file that holds the tensor. */
  Path file();

  /**
   * Fills the buffer from its position to its limit with the tensor's bytes from `byteOffset` on.
   *
   * @throws IndexOutOfBoundsException when the range leaves the tensor
   * @throws InputException when the file has become shorter or cannot be read
   */
  void read(long byteOffset, ByteBuffer destination);

  /** What takes a tensor's bytes piece by piece. */
  interface Pieces {
    /**
     * The next piece.
     *
     * @param byteOffset its place in the tensor
     * @param bytes from their position to their limit
     */
    void take(long byteOffset, ByteBuffer bytes);
  }

  /**
   * Reads all bytes in order, in pieces as large as the buffer.
   *
   * @param buffer through which they go; its content is lost
   */
  default void readThrough(ByteBuffer buffer, Pieces pieces) {
    for (long at = 0; at < bytes(); at += buffer.capacity()) {
      buffer.clear().limit((int) Math.min(buffer.capacity(), bytes() - at));
      read(at, buffer);
      pieces.take(at, buffer.flip());
    }
  }

  /** Whether another tensor has the same type, shape and bytes. */
  default boolean hasSameBytes(TensorSource other) {
    if (storedType() != other.storedType() || !Arrays.equals(shape(), other.shape())) {
      return false;
    }
    ByteBuffer mine = ByteBuffer.allocate((int) Math.min(bytes(), 1 << 20));
    ByteBuffer theirs = ByteBuffer.allocate(mine.capacity());
    for (long at = 0; at < bytes(); at += mine.capacity()) {
      int count = (int) Math.min(mine.capacity(), bytes() - at);
      read(at, mine.clear().limit(count));
      other.read(at, theirs.clear().limit(count));
      if (!mine.flip().equals(theirs.flip())) {
        return false;
      }
    }
    return true;
  }

  /** The operators' element type; an InputException names the tensor where there is none. */
  default DType dtype() {
    DType dtype = storedType().dtype();
    if (dtype == null) {
      throw new InputException(
          file()
              + ": tensor "
              + Text.quote(name())
              + " has type "
              + storedType()
              + ", which is not supported here");
    }
    return dtype;
  }

  /** Number of elements. */
  default long elements() {
    long elements = 1;
    for (long dimension : shape()) {
      elements *= dimension;
    }
    return elements;
  }

  /**
   * All elements widened to f32 (F64 is rounded). For small tensors: norms, biases, adapters,
   * tests.
   */
  default float[] toFloats() {
    float[] values = new float[Math.toIntExact(elements())];
    ByteBuffer bytes = allBytes();
    switch (storedType()) {
      case F32 -> bytes.asFloatBuffer().get(values);
      case F64 -> {
        for (int i = 0; i < values.length; i++) {
          values[i] = (float) bytes.getDouble();
        }
      }
      case BF16 -> {
        for (int i = 0; i < values.length; i++) {
          values[i] = FloatBits.fromBf16(bytes.getShort());
        }
      }
      case F16 -> {
        for (int i = 0; i < values.length; i++) {
          values[i] = FloatBits.fromF16(bytes.getShort());
        }
      }
      default -> throw wrongType("floating-point");
    }
    return values;
  }

  /** All elements of an F64, F32, BF16 or F16 tensor as f64. */
  default double[] toDoubles() {
    if (storedType() == StoredType.F64) {
      double[] values = new double[Math.toIntExact(elements())];
      allBytes().asDoubleBuffer().get(values);
      return values;
    }
    float[] floats = toFloats();
    double[] values = new double[floats.length];
    for (int i = 0; i < values.length; i++) {
      values[i] = floats[i];
    }
    return values;
  }

  /** All elements of an integer tensor. */
  default long[] toLongs() {
    long[] values = new long[Math.toIntExact(elements())];
    ByteBuffer bytes = allBytes();
    for (int i = 0; i < values.length; i++) {
      values[i] =
          switch (storedType()) {
            case I64 -> bytes.getLong();
            case I32 -> bytes.getInt();
            case U32 -> Integer.toUnsignedLong(bytes.getInt());
            case I16 -> bytes.getShort();
            case U16 -> Short.toUnsignedLong(bytes.getShort());
            case I8 -> bytes.get();
            case U8, BOOL -> Byte.toUnsignedLong(bytes.get());
            default -> throw wrongType("integer");
          };
    }
    return values;
  }

  /** All bytes, as stored. */
  default byte[] toBytes() {
    return allBytes().array();
  }

  private ByteBuffer allBytes() {
    ByteBuffer bytes = ByteBuffer.allocate(Math.toIntExact(bytes())).order(ByteOrder.LITTLE_ENDIAN);
    read(0, bytes);
    return bytes.flip();
  }

  private InputException wrongType(String expected) {
    return new InputException(
        file()
            + ": tensor "
            + Text.quote(name())
            + ": expected a "
            + expected
            + " type, found "
            + storedType()
            + " "
            + Arrays.toString(shape()));
  }
}
