// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.merge;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Linear;
import org.qlora4j.kernels.Weight;

/**
 * What an adapter makes of some rows of a weight: {@code w + s * b * a}, with DoRA {@code m / |w +
 * s * b * a| * (w + s * b * a)}, the norm over each row. All in f32, products accumulated in f32 by
 * the pack, norms in f64.
 */
final class LowRankUpdate implements AutoCloseable {
  private final long cols;
  private final int rank;
  private final float scaling;
  private final float[] b;
  private final float @Nullable [] magnitude;
  private final KernelPack pack;
  private final int maxRows;
  private final DeviceBuffer memory;
  private final Weight transposedA;

  /**
   * Reads the module's matrices.
   *
   * @param scaling s of the module
   * @param maxRows most rows {@link #apply} is asked for at a time
   */
  LowRankUpdate(KernelPack pack, PeftAdapterFile.Pair pair, float scaling, int maxRows) {
    this.pack = pack;
    this.cols = pair.in();
    this.rank = Math.toIntExact(pair.a().shape()[0]);
    this.scaling = scaling;
    this.maxRows = maxRows;
    this.b = pair.b().toFloats();
    this.magnitude = pair.magnitude() == null ? null : pair.magnitude().toFloats();
    long a = Math.multiplyExact(cols, rank);
    long x = Math.multiplyExact((long) maxRows, rank);
    long y = Math.multiplyExact((long) maxRows, cols);
    this.memory = DeviceBuffer.allocate(pack, Math.multiplyExact(a + x + y, Float.BYTES));
    DeviceTensor tensor = DeviceTensor.of(memory, 0, DType.F32, cols, rank);
    tensor.copyFrom(transpose(pair.a().toFloats(), rank, Math.toIntExact(cols)));
    this.transposedA = Weight.dense(tensor);
  }

  private static float[] transpose(float[] values, int rows, int cols) {
    float[] transposed = new float[values.length];
    for (int row = 0; row < rows; row++) {
      for (int col = 0; col < cols; col++) {
        transposed[col * rows + row] = values[row * cols + col];
      }
    }
    return transposed;
  }

  /**
   * Updates rows of the weight in place.
   *
   * @param values row-major
   */
  void apply(long firstRow, int count, float[] values) {
    if (count > maxRows) {
      throw new IllegalArgumentException(count + " rows at a time, at most " + maxRows);
    }
    int from = Math.toIntExact(firstRow * rank);
    long xStart = cols * rank * Float.BYTES;
    long yStart = xStart + (long) maxRows * rank * Float.BYTES;
    DeviceTensor x = DeviceTensor.of(memory, xStart, DType.F32, count, rank);
    DeviceTensor y = DeviceTensor.of(memory, yStart, DType.F32, count, cols);
    x.copyFrom(Arrays.copyOfRange(b, from, from + count * rank));
    Linear.forward(pack, x, transposedA, null, null, null, y, null);
    float[] delta = y.toFloats();
    for (int i = 0; i < delta.length; i++) {
      values[i] += scaling * delta[i];
    }
    float[] lengths = magnitude;
    if (lengths == null) {
      return;
    }
    int width = Math.toIntExact(cols);
    for (int row = 0; row < count; row++) {
      double squares = 0;
      for (int i = row * width; i < (row + 1) * width; i++) {
        squares += (double) values[i] * values[i];
      }
      // A row of zeros has no direction to give a length to.
      float factor =
          squares == 0 ? 0 : (float) (lengths[(int) firstRow + row] / Math.sqrt(squares));
      for (int i = row * width; i < (row + 1) * width; i++) {
        values[i] *= factor;
      }
    }
  }

  @Override
  public void close() {
    memory.close();
  }
}
