// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.tensor.TensorArena;

/** The rows of the input embedding, wherever they are. */
interface EmbeddingTable {

  /**
   * out[i] = row ids[i], converted to the type of {@code out} (one rounding, to nearest even).
   *
   * @param ids i32 [n]
   * @param out [n, hidden]
   * @param arena for scratch memory, which is free again when this returns
   */
  void gather(DeviceTensor ids, DeviceTensor out, TensorArena arena);

  /** Bytes of it on the device. */
  long bytes();
}
