// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** FP8 E4M3 in kernels, by the rule of half.h: bias 7, no infinities, NaN is 0x7f and 0xff. */
#ifndef QLORA4J_CUDA_SUPPORT_E4M3_H_
#define QLORA4J_CUDA_SUPPORT_E4M3_H_

#include "support/device.h"

namespace q4j::cuda {

/** Largest E4M3 value. */
constexpr float kE4m3Largest = 448.0f;

/** The code of the nearest E4M3 value, half to even, saturating at 448; 0x7f for NaN. */
Q4J_DEVICE uint32_t encode_e4m3(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fu;
  // From 2^-6 on, drop 20 bits of the mantissa and 120 from the exponent. Below, adding 2^14 puts 2^-9, the distance of
  // E4M3's subnormals, on the last place of the f32, so that the addition itself rounds.
  const uint32_t normal = (magnitude + 0x7ffffu + ((magnitude >> 20) & 1u) - (120u << 23)) >> 20;
  const uint32_t subnormal = float_bits(add(bits_float(magnitude), 16384.0f)) - float_bits(16384.0f);
  const uint32_t code = magnitude < 0x3c800000u ? subnormal : normal;
  return ((bits >> 24) & 0x80u) | (code < 0x7eu ? code : 0x7eu);
}

/**
 * The codes of two values, the first in the low byte. One instruction from compute capability 8.9 on, about 13 for each value
 * before; the bits are the same.
 */
Q4J_DEVICE uint32_t encode_e4m3_pair(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  return codes;
#else
  return encode_e4m3(first) | encode_e4m3(second) << 8;
#endif
}

/** The value of a code in the highest byte of a word whose other bytes are 0, unless it is NaN's, which reads as 480. */
Q4J_DEVICE float decode_e4m3_number(uint32_t word) {
  // The shift moves exponent and mantissa to where f32 has them (a subnormal becomes one of f32); the sign comes along.
  const uint32_t shifted = static_cast<uint32_t>(static_cast<int32_t>(word) >> 4) & 0x87f00000u;
  return multiply(bits_float(shifted), 0x1p120f);
}

/** The value of the code in the low byte, which is all there is. */
Q4J_DEVICE float decode_e4m3(uint32_t byte) {
  return (byte & 0x7fu) == 0x7fu ? bits_float(0x7fffffffu) : decode_e4m3_number(byte << 24);
}

/** The values of four codes, the lowest byte's first. About 5 instructions for each. */
Q4J_DEVICE void decode_e4m3_four(uint32_t codes, float (&value)[4]) {
  Q4J_UNROLL
  for (int i = 0; i < 4; ++i) value[i] = decode_e4m3_number(byte_permute(codes, 0u, 0x444u | static_cast<uint32_t>(i) << 12));
  // One of the magnitudes is 0x7f: adding 1 carries into the bit of the sign. Rare enough to be looked for four at a time.
  if ((((codes & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) == 0) return;
  Q4J_UNROLL
  for (int i = 0; i < 4; ++i) value[i] = decode_e4m3(codes >> (8 * i) & 255u);
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_E4M3_H_
