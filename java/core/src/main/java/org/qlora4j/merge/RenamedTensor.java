// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.merge;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;

/** A tensor of a file under the name that it gets in the result. */
record RenamedTensor(String name, TensorSource tensor) implements TensorSource {
  @Override
  public StoredType storedType() {
    return tensor.storedType();
  }

  @Override
  public long[] shape() {
    return tensor.shape();
  }

  @Override
  public long bytes() {
    return tensor.bytes();
  }

  @Override
  public Path file() {
    return tensor.file();
  }

  @Override
  public void read(long byteOffset, ByteBuffer destination) {
    tensor.read(byteOffset, destination);
  }
}
