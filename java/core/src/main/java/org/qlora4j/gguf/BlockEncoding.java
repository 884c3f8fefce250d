// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import java.nio.ByteBuffer;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.quant.FloatEncoding;

/**
 * f32 values as the bytes of GGUF's types. The block types are bit-identical to ggml's reference
 * quantizer: for 32 values x,
 *
 * <ul>
 *   <li>Q8_0: {@code d = max|x| / 127}, codes {@code round(x * (1 / d))}, halves away from zero;
 *   <li>Q4_0: {@code d = m / -8} for the first x of largest magnitude m (with its sign), codes
 *       {@code min(15, trunc(x * (1 / d) + 8.5))}; byte j holds code j low and code j + 16 high.
 * </ul>
 *
 * All in f32; the codes come from the unrounded d, which is stored in F16.
 */
final class BlockEncoding {
  private static final int BLOCK = 32;

  private BlockEncoding() {}

  /**
   * Appends values to a little-endian buffer with room for them.
   *
   * @param count a multiple of the type's block
   * @return whether the type can hold them: finite values, and scales within F16
   */
  static boolean encode(float[] values, int from, int count, GgufType type, ByteBuffer out) {
    if (count % type.blockElements() != 0) {
      throw new IllegalArgumentException(count + " values do not fill blocks of " + type);
    }
    return switch (type) {
      case F32 -> FloatEncoding.encode(values, from, count, DType.F32, out);
      case F16 -> FloatEncoding.encode(values, from, count, DType.F16, out);
      case BF16 -> FloatEncoding.encode(values, from, count, DType.BF16, out);
      case Q8_0 -> {
        boolean fits = true;
        for (int at = from; at < from + count; at += BLOCK) {
          fits &= q8(values, at, out);
        }
        yield fits;
      }
      case Q4_0 -> {
        boolean fits = true;
        for (int at = from; at < from + count; at += BLOCK) {
          fits &= q4(values, at, out);
        }
        yield fits;
      }
    };
  }

  private static boolean q8(float[] values, int from, ByteBuffer out) {
    float largest = Math.abs(extreme(values, from));
    float d = largest / 127;
    float inverse = d == 0 ? 0 : 1 / d;
    boolean fits = putScale(d, out);
    for (int i = from; i < from + BLOCK; i++) {
      out.put((byte) roundHalfAway(values[i] * inverse));
    }
    return fits;
  }

  private static int roundHalfAway(float value) {
    float magnitude = Math.abs(value);
    int floor = (int) magnitude;
    int rounded = magnitude - floor >= 0.5f ? floor + 1 : floor;
    return value < 0 ? -rounded : rounded;
  }

  private static boolean q4(float[] values, int from, ByteBuffer out) {
    float d = extreme(values, from) / -8;
    float inverse = d == 0 ? 0 : 1 / d;
    boolean fits = putScale(d, out);
    for (int i = from; i < from + BLOCK / 2; i++) {
      out.put((byte) (nibble(values[i] * inverse) | nibble(values[i + BLOCK / 2] * inverse) << 4));
    }
    return fits;
  }

  private static int nibble(float value) {
    return Math.max(0, Math.min(15, (int) (value + 8.5f)));
  }

  /** The first value of the largest magnitude; NaN where there is one. */
  private static float extreme(float[] values, int from) {
    float extreme = values[from];
    for (int i = from; i < from + BLOCK; i++) {
      if (Float.isNaN(values[i])) {
        return Float.NaN;
      }
      if (Math.abs(values[i]) > Math.abs(extreme)) {
        extreme = values[i];
      }
    }
    return extreme;
  }

  private static boolean putScale(float d, ByteBuffer out) {
    short half = FloatBits.toF16(d);
    out.putShort(half);
    return (half & 0x7fff) < 0x7c00;
  }
}
