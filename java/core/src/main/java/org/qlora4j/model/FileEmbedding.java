// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * A frozen embedding that stays in its file, of which a micro-batch's rows are read. A batch uses a
 * few hundred of tens of thousands of rows, and the system's page cache has those that are common.
 */
final class FileEmbedding implements EmbeddingTable, AutoCloseable {
  private static final int CHUNK_BYTES = 1 << 20;

  private final SafetensorsFile file;
  private final TensorSource table;
  private final DType stored;
  private final int rows;
  private final int cols;
  private final ByteBuffer host;

  /**
   * @param source the table, [vocabulary, hidden]; its file is opened again and belongs to this
   */
  FileEmbedding(TensorSource source) {
    this.stored = source.dtype();
    this.rows = Math.toIntExact(source.shape()[0]);
    this.cols = Math.toIntExact(source.shape()[1]);
    this.host =
        ByteBuffer.allocateDirect(Math.max(CHUNK_BYTES, cols * stored.bytes()))
            .order(ByteOrder.LITTLE_ENDIAN);
    this.file = SafetensorsFile.open(source.file());
    this.table = file.tensor(source.name());
  }

  @Override
  public void gather(DeviceTensor ids, DeviceTensor out, TensorArena arena) {
    if (out.pack().isDryRun()) {
      return;
    }
    var mark = arena.mark();
    int[] wanted = ids.toInts();
    int rowBytes = cols * stored.bytes();
    int chunk = host.capacity() / rowBytes;
    DeviceTensor staging = out;
    if (out.dtype() != stored) {
      staging = arena.allocate(stored, wanted.length, cols);
    }
    for (int first = 0; first < wanted.length; first += chunk) {
      int count = Math.min(chunk, wanted.length - first);
      for (int i = 0; i < count; i++) {
        int row = wanted[first + i];
        if (row < 0 || row >= rows) {
          throw new IllegalArgumentException("token " + row + " of a vocabulary of " + rows);
        }
        host.limit((i + 1) * rowBytes).position(i * rowBytes);
        table.read((long) row * rowBytes, host);
      }
      host.position(0);
      staging.buffer().copyIn(staging.byteOffset() + (long) first * rowBytes, host);
    }
    if (staging != out) {
      TorchBridge.copy(staging, out);
    }
    arena.release(mark);
  }

  @Override
  public long bytes() {
    return 0;
  }

  @Override
  public void close() {
    file.close();
  }
}
