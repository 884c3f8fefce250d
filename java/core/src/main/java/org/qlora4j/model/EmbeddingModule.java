// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tensor.TensorArena;

/** The input embedding: a frozen table, or the trained one that stands in its place. */
final class EmbeddingModule implements TrainableModule {
  private static final int CHUNK_ROWS = 1024;

  private final KernelPack pack;
  private final String name;
  private final int rows;
  private final int cols;
  private final EmbeddingTable frozen;
  private EmbeddingTable table;
  private @Nullable Parameter parameter;

  /**
   * @param name module path
   * @param parameter of a table that is trained itself, or null
   */
  EmbeddingModule(
      KernelPack pack,
      String name,
      int rows,
      int cols,
      EmbeddingTable table,
      @Nullable Parameter parameter) {
    this.pack = pack;
    this.name = name;
    this.rows = rows;
    this.cols = cols;
    this.frozen = table;
    this.table = table;
    this.parameter = parameter;
  }

  /** The rows in use. */
  EmbeddingTable table() {
    return table;
  }

  /** What is trained of it, or null. */
  @Nullable Parameter parameter() {
    return parameter;
  }

  /** Bytes on the device of the table that the model owns. */
  long frozenBytes() {
    return frozen.bytes();
  }

  @Override
  public String name() {
    return name;
  }

  @Override
  public long[] weightShape() {
    return new long[] {rows, cols};
  }

  @Override
  public long biasLength() {
    return 0;
  }

  @Override
  public void copyWeight(long first, DeviceTensor target) {
    if (pack.isDryRun()) {
      return;
    }
    try (TensorArena arena = new TensorArena(pack)) {
      int count = Math.toIntExact(target.rows());
      for (int done = 0; done < count; done += CHUNK_ROWS) {
        int n = Math.min(CHUNK_ROWS, count - done);
        var mark = arena.mark();
        int[] numbers = new int[n];
        for (int i = 0; i < n; i++) {
          numbers[i] = Math.toIntExact(first + done + i);
        }
        DeviceTensor ids = arena.allocate(DType.I32, n);
        ids.copyFrom(numbers);
        frozen.gather(ids, target.rows(done, n), arena);
        arena.release(mark);
      }
    }
  }

  @Override
  public void copyBias(DeviceTensor target) {
    throw new IllegalStateException("an embedding has no bias");
  }

  @Override
  public void replace(@Nullable Parameter weight, @Nullable Parameter bias) {
    table = weight == null ? frozen : new ResidentEmbedding(weight.value());
    parameter = weight;
  }
}
