// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.quant;

import java.nio.ByteBuffer;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.FloatBits;

/**
 * f32 values as the bytes of a floating-point type, little-endian, one rounding to nearest even.
 */
public final class FloatEncoding {
  private FloatEncoding() {}

  /**
   * Appends values to a little-endian buffer with room for them.
   *
   * @param type F32, BF16 or F16
   * @return whether every finite value stayed finite; F16 ends at 65504
   */
  public static boolean encode(float[] values, int from, int count, DType type, ByteBuffer out) {
    boolean finite = true;
    for (int i = from; i < from + count; i++) {
      float value = values[i];
      switch (type) {
        case F32 -> out.putFloat(value);
        case BF16 -> out.putShort(FloatBits.toBf16(value));
        case F16 -> {
          short half = FloatBits.toF16(value);
          finite &= (half & 0x7fff) < 0x7c00 || !Float.isFinite(value);
          out.putShort(half);
        }
        default -> throw new IllegalArgumentException("expected F32, BF16 or F16, found " + type);
      }
    }
    return finite;
  }

  /** Whether a value is the one that is held, or becomes it where that is held in 16 bits. */
  public static boolean isHeldAs(float value, float held) {
    return value == held
        || FloatBits.fromBf16(FloatBits.toBf16(value)) == held
        || FloatBits.fromF16(FloatBits.toF16(value)) == held;
  }

  /** F32, BF16 or F16 by its name in config.json, also as PyTorch prints it; else null. */
  public static @Nullable DType byConfigName(String name) {
    return switch (name.startsWith("torch.") ? name.substring("torch.".length()) : name) {
      case "float32" -> DType.F32;
      case "bfloat16" -> DType.BF16;
      case "float16" -> DType.F16;
      default -> null;
    };
  }

  /** The type's name in config.json. */
  public static String configName(DType type) {
    return switch (type) {
      case F32 -> "float32";
      case BF16 -> "bfloat16";
      case F16 -> "float16";
      default -> throw new IllegalArgumentException("expected F32, BF16 or F16, found " + type);
    };
  }
}
