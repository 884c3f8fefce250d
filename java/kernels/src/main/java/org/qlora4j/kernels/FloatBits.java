// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

/** Conversions between {@code float} and the two 16-bit float formats, rounding to nearest even. */
public final class FloatBits {
  private FloatBits() {}

  /** The bfloat16 nearest to {@code value}, ties to even; NaN stays a (quiet) NaN. */
  public static short toBf16(float value) {
    int bits = Float.floatToRawIntBits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) {
      return (short) ((bits >>> 16) | 0x40);
    }
    int rounding = 0x7fff + ((bits >>> 16) & 1);
    return (short) ((bits + rounding) >>> 16);
  }

  /** The float that a bfloat16 stands for, exactly. */
  public static float fromBf16(short bits) {
    return Float.intBitsToFloat(bits << 16);
  }

  /** {@code value} rounded to bfloat16 and widened again. */
  public static float roundToBf16(float value) {
    return fromBf16(toBf16(value));
  }

  /**
   * The binary16 nearest to {@code value}, ties to even; too large values become infinite; NaN
   * stays a NaN.
   */
  public static short toF16(float value) {
    int bits = Float.floatToRawIntBits(value);
    int sign = (bits >>> 16) & 0x8000;
    int magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
      return (short) (sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff));
    }
    // 65520 is halfway between the largest finite binary16 (65504) and the next step; it and
    // everything above overflow.
    if (magnitude >= 0x477ff000) {
      return (short) (sign | 0x7c00);
    }
    if (magnitude < 0x38800000) {
      // Below 2^-14 the result counts units of 2^-24; adding 0.5 aligns the unit with the last
      // mantissa bit, so that the
      // float addition itself rounds to nearest even.
      float aligned = Float.intBitsToFloat(magnitude) + 0.5f;
      return (short) (sign | (Float.floatToRawIntBits(aligned) - Float.floatToRawIntBits(0.5f)));
    }
    int rounding = 0xfff + ((magnitude >>> 13) & 1);
    // 112 = the difference of the exponent biases, 127 - 15.
    return (short) (sign | (((magnitude + rounding) >>> 13) - (112 << 10)));
  }

  /** The float that a binary16 stands for, exactly. */
  public static float fromF16(short half) {
    int sign = (half & 0x8000) << 16;
    int exponent = (half >>> 10) & 0x1f;
    int mantissa = half & 0x3ff;
    if (exponent == 0x1f) {
      return Float.intBitsToFloat(sign | 0x7f800000 | (mantissa << 13));
    }
    if (exponent == 0) {
      float magnitude = mantissa * 0x1p-24f;
      return sign == 0 ? magnitude : -magnitude;
    }
    return Float.intBitsToFloat(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
}
