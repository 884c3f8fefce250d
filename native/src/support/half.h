// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** bf16, f16 and FP8 E4M3 as storage types. Conversions round to nearest even, keep subnormals, and NaN stays NaN. */
#ifndef QLORA4J_SUPPORT_HALF_H_
#define QLORA4J_SUPPORT_HALF_H_

#include <cstdint>
#include <cstring>

#include "qlora4j/types.h"

namespace q4j {

/** Storage of one bf16. A struct, so that templates tell it from f16; same size and alignment as uint16_t. */
struct bf16 {
  uint16_t bits;
};

/** Storage of one IEEE binary16. */
struct f16 {
  uint16_t bits;
};

/**
 * Storage of one FP8 E4M3 (Micikevicius et al. 2022; PyTorch's float8_e4m3fn): bias 7, no infinities, NaN is 0x7f and 0xff.
 */
struct e4m3 {
  uint8_t bits;
};

static_assert(sizeof(bf16) == 2 && alignof(bf16) == 2, "bf16 is an array element");
static_assert(sizeof(f16) == 2 && alignof(f16) == 2, "f16 is an array element");

static inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float to_f32(float value) { return value; }

static inline float to_f32(bf16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

static inline float to_f32(f16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0x1fu) return float_of(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    // Zero or subnormal: mantissa * 2^-24, exact in f32.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return float_of(sign | bits_of(magnitude));
  }
  return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline float to_f32(e4m3 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x80u) << 24;
  const uint32_t magnitude = value.bits & 0x7fu;
  if (magnitude == 0x7fu) return float_of(sign | 0x7fc00000u);
  if (magnitude < 8u) return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-9f));  // zero or subnormal
  return float_of(sign | ((magnitude << 20) + (120u << 23)));
}

static inline bf16 bf16_from_f32(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};  // keep NaN quiet
  const uint32_t round = 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>((bits + round) >> 16)};
}

static inline f16 f16_from_f32(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu))};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 puts 2^-24 on the last place of the f32, so the addition itself rounds to nearest even.
    const float shifted = float_of(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (bits_of(shifted) - bits_of(0.5f)))};
  }
  const uint32_t round = 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((magnitude + round - 0x38000000u) >> 13))};
}

/** Saturates: magnitudes above 448, infinity included, become 448. */
static inline e4m3 e4m3_from_f32(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint8_t>(sign | 0x7fu)};
  if (magnitude >= 0x43e00000u) return {static_cast<uint8_t>(sign | 0x7eu)};  // 448
  if (magnitude < 0x3c800000u) {
    // Below 2^-6: adding 2^14 puts 2^-9 on the last place of the f32, so the addition itself rounds to nearest even.
    const float shifted = float_of(magnitude) + 16384.0f;
    return {static_cast<uint8_t>(sign | (bits_of(shifted) - bits_of(16384.0f)))};
  }
  const uint32_t round = 0x7ffffu + ((magnitude >> 20) & 1u);
  return {static_cast<uint8_t>(sign | ((magnitude + round - (120u << 23)) >> 20))};
}

/** from_f32<T>(value): the nearest T. */
template <typename T>
static inline T from_f32(float value);
template <>
inline float from_f32<float>(float value) {
  return value;
}
template <>
inline bf16 from_f32<bf16>(float value) {
  return bf16_from_f32(value);
}
template <>
inline f16 from_f32<f16>(float value) {
  return f16_from_f32(value);
}
template <>
inline e4m3 from_f32<e4m3>(float value) {
  return e4m3_from_f32(value);
}

/** The value rounded to bf16 and widened again. */
static inline float round_to_bf16(float value) { return to_f32(bf16_from_f32(value)); }

/** Bytes of one element; 0 for an unknown type. */
static inline int64_t dtype_bytes(int32_t dtype) {
  switch (dtype) {
    case Q4J_F32:
    case Q4J_I32:
      return 4;
    case Q4J_I64:
      return 8;
    case Q4J_BF16:
    case Q4J_F16:
      return 2;
    case Q4J_U8:
    case Q4J_I8:
    case Q4J_F8_E4M3:
      return 1;
    default:
      return 0;
  }
}

static inline const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case Q4J_F32:
      return "f32";
    case Q4J_BF16:
      return "bf16";
    case Q4J_F16:
      return "f16";
    case Q4J_I32:
      return "i32";
    case Q4J_I64:
      return "i64";
    case Q4J_U8:
      return "u8";
    case Q4J_I8:
      return "i8";
    case Q4J_F8_E4M3:
      return "f8_e4m3";
    default:
      return "unknown type";
  }
}

}  // namespace q4j

#endif  // QLORA4J_SUPPORT_HALF_H_
