// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** The cheap argument checks that run before a call crosses into native code. */
final class Checks {
  private Checks() {}

  static <T> T present(String name, @Nullable T value) {
    if (value == null) {
      throw new IllegalArgumentException(name + " is required here");
    }
    return value;
  }

  static void type(String name, DeviceTensor tensor, DType expected) {
    if (tensor.dtype() != expected) {
      throw new IllegalArgumentException(name + " must be " + expected + ", found " + tensor);
    }
  }

  /** Type of activations: f32 or bf16. */
  static DType activation(String name, DeviceTensor tensor) {
    DType type = tensor.dtype();
    if (type != DType.F32 && type != DType.BF16) {
      throw new IllegalArgumentException(name + " must be F32 or BF16, found " + tensor);
    }
    return type;
  }

  static void floating(String name, DeviceTensor tensor) {
    if (!tensor.dtype().isFloat()) {
      throw new IllegalArgumentException(name + " must be F32, BF16 or F16, found " + tensor);
    }
  }

  static void matrix(String name, DeviceTensor tensor, long rows, long cols) {
    if (tensor.rows() != rows || tensor.cols() != cols) {
      throw new IllegalArgumentException(
          name
              + " must be ["
              + rows
              + ", "
              + cols
              + "], found "
              + Arrays.toString(tensor.shapeView()));
    }
  }

  static void sameShape(String name, DeviceTensor tensor, String otherName, DeviceTensor other) {
    if (tensor.rows() != other.rows() || tensor.cols() != other.cols()) {
      throw new IllegalArgumentException(
          name
              + " must have the shape of "
              + otherName
              + " "
              + Arrays.toString(other.shapeView())
              + ", found "
              + Arrays.toString(tensor.shapeView()));
    }
  }

  static void elements(String name, DeviceTensor tensor, long expected) {
    if (tensor.elements() != expected) {
      throw new IllegalArgumentException(
          name
              + " must have "
              + expected
              + " elements, found "
              + Arrays.toString(tensor.shapeView()));
    }
  }

  static void contiguous(String name, DeviceTensor tensor) {
    if (!tensor.isContiguous()) {
      throw new IllegalArgumentException(
          name
              + " must be contiguous, found "
              + Arrays.toString(tensor.shapeView())
              + " with "
              + tensor.rowStride()
              + " elements between rows");
    }
  }

  static void blockSize(int blockSize) {
    if (blockSize < 32 || blockSize > 4096 || Integer.bitCount(blockSize) != 1) {
      throw new IllegalArgumentException(
          "block size must be a power of two from 32 to 4096, found " + blockSize);
    }
  }

  /** A vector of f32 with as many elements as the rows or columns it goes with. */
  static void vector(String name, DeviceTensor tensor, DType type, long expected) {
    type(name, tensor, type);
    elements(name, tensor, expected);
    contiguous(name, tensor);
  }
}
