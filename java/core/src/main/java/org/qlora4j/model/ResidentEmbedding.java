// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tensor.TorchBridge;

/**
 * An embedding on the device.
 *
 * @param table [vocabulary, hidden]
 */
record ResidentEmbedding(DeviceTensor table) implements EmbeddingTable {
  @Override
  public void gather(DeviceTensor ids, DeviceTensor out, TensorArena arena) {
    TorchBridge.gatherRows(table, ids, out);
  }

  @Override
  public long bytes() {
    return table.bytes();
  }
}
