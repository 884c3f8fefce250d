// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;

/** Element types a safetensors file may hold; those that operators take have a {@link DType}. */
public enum StoredType {
  BOOL(8, null),
  F4(4, null),
  F6_E2M3(6, null),
  F6_E3M2(6, null),
  U8(8, DType.U8),
  I8(8, DType.I8),
  F8_E5M2(8, null),
  F8_E4M3(8, DType.F8_E4M3),
  F8_E5M2FNUZ(8, null),
  F8_E4M3FNUZ(8, null),
  F8_E8M0(8, null),
  I16(16, null),
  U16(16, null),
  F16(16, DType.F16),
  BF16(16, DType.BF16),
  I32(32, DType.I32),
  U32(32, null),
  F32(32, DType.F32),
  C64(64, null),
  F64(64, null),
  I64(64, DType.I64),
  U64(64, null);

  private final int bits;
  private final @Nullable DType dtype;

  StoredType(int bits, @Nullable DType dtype) {
    this.bits = bits;
    this.dtype = dtype;
  }

  /** Bits of one element; elements are packed without gaps. */
  public int bits() {
    return bits;
  }

  /** The operators' type, or null where no operator takes it. */
  public @Nullable DType dtype() {
    return dtype;
  }

  /** The type by its name in the file, or null. */
  public static @Nullable StoredType byName(String name) {
    for (StoredType type : values()) {
      if (type.name().equals(name)) {
        return type;
      }
    }
    return null;
  }

  /** How a tensor of the operators' type is stored. */
  public static StoredType of(DType dtype) {
    return switch (dtype) {
      case F32 -> F32;
      case BF16 -> BF16;
      case F16 -> F16;
      case I32 -> I32;
      case I64 -> I64;
      case U8 -> U8;
      case I8 -> I8;
      case F8_E4M3 -> F8_E4M3;
    };
  }
}
