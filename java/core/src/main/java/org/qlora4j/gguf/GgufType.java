// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import org.jspecify.annotations.Nullable;

/** Element types of GGUF tensors that are written here; the numbers are ggml's. */
public enum GgufType {
  /** 32-bit float. */
  F32(0, 1, 4, 0),
  /** IEEE half. */
  F16(1, 1, 2, 1),
  /** Blocks of 32: an F16 scale and 16 bytes of 4-bit codes. */
  Q4_0(2, 32, 18, 2),
  /** Blocks of 32: an F16 scale and 32 signed bytes. */
  Q8_0(8, 32, 34, 7),
  /** bfloat16. */
  BF16(30, 1, 2, 32);

  private final int code;
  private final int blockElements;
  private final int blockBytes;
  private final int fileType;

  GgufType(int code, int blockElements, int blockBytes, int fileType) {
    this.code = code;
    this.blockElements = blockElements;
    this.blockBytes = blockBytes;
    this.fileType = fileType;
  }

  /** ggml's number of the type. */
  public int code() {
    return code;
  }

  /** Elements of a block, all in one row; 1 for plain floats. */
  public int blockElements() {
    return blockElements;
  }

  /** Bytes of a block. */
  public int blockBytes() {
    return blockBytes;
  }

  /** {@code general.file_type} of a model most of whose matrices have this type. */
  public int fileType() {
    return fileType;
  }

  /** Whether a block shares a scale. */
  public boolean isQuantized() {
    return blockElements > 1;
  }

  /** Bytes of elements that fill whole blocks. */
  public long bytes(long elements) {
    if (elements % blockElements != 0) {
      throw new IllegalArgumentException(elements + " elements do not fill blocks of " + this);
    }
    return Math.multiplyExact(elements / blockElements, (long) blockBytes);
  }

  /** The type of this number, or null. */
  static @Nullable GgufType byCode(long code) {
    for (GgufType type : values()) {
      if (type.code == code) {
        return type;
      }
    }
    return null;
  }
}
