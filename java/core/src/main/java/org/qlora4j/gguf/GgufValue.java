// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** A value of GGUF metadata: a scalar or a list of scalars of one kind. */
public sealed interface GgufValue {

  /** Kinds of scalars, in the order of GGUF's numbers; 9 is the list. */
  enum Kind {
    U8(0, 1),
    I8(1, 1),
    U16(2, 2),
    I16(3, 2),
    U32(4, 4),
    I32(5, 4),
    F32(6, 4),
    BOOL(7, 1),
    /** A u64 length and that many bytes of UTF-8. */
    STRING(8, 8),
    U64(10, 8),
    I64(11, 8),
    F64(12, 8);

    /** GGUF's number of a list. */
    static final int LIST_CODE = 9;

    private final int code;
    private final int leastBytes;

    Kind(int code, int leastBytes) {
      this.code = code;
      this.leastBytes = leastBytes;
    }

    int code() {
      return code;
    }

    /** Bytes of a scalar, of a string at least. */
    int leastBytes() {
      return leastBytes;
    }

    static @Nullable Kind byCode(long code) {
      for (Kind kind : values()) {
        if (kind.code == code) {
          return kind;
        }
      }
      return null;
    }
  }

  /** The scalar's kind, or that of a list's elements. */
  Kind kind();

  /**
   * One value.
   *
   * @param value Long for integers, Float, Double, Boolean or String
   */
  record Scalar(Kind kind, Object value) implements GgufValue {}

  /** Values of one kind. */
  record Array(Kind kind, List<Object> values) implements GgufValue {
    public Array {
      values = List.copyOf(values);
    }
  }

  /** An unsigned integer of 32 bits. */
  static GgufValue u32(long value) {
    if (value < 0 || value > 0xffff_ffffL) {
      throw new IllegalArgumentException("not an unsigned integer of 32 bits: " + value);
    }
    return new Scalar(Kind.U32, value);
  }

  /** A float. */
  static GgufValue f32(float value) {
    return new Scalar(Kind.F32, value);
  }

  /** A truth value. */
  static GgufValue bool(boolean value) {
    return new Scalar(Kind.BOOL, value);
  }

  /** A text. */
  static GgufValue string(String value) {
    return new Scalar(Kind.STRING, value);
  }

  /** A list of texts. */
  static GgufValue strings(List<String> values) {
    return new Array(Kind.STRING, List.copyOf(values));
  }

  /** A list of signed integers of 32 bits. */
  static GgufValue i32s(int... values) {
    return new Array(Kind.I32, Arrays.stream(values).mapToObj(v -> (Object) (long) v).toList());
  }

  /** A list of floats. */
  static GgufValue f32s(float... values) {
    Object[] boxed = new Object[values.length];
    for (int i = 0; i < values.length; i++) {
      boxed[i] = values[i];
    }
    return new Array(Kind.F32, List.of(boxed));
  }
}
