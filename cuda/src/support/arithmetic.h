// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Arithmetic with one rounding for each operation, so that both bodies, and all packs, give the same bits; functions of the
 * math library; bytes of words.
 */
#ifndef QLORA4J_CUDA_SUPPORT_ARITHMETIC_H_
#define QLORA4J_CUDA_SUPPORT_ARITHMETIC_H_

#include <cstdint>

#include "support/execution.h"

#if !defined(__CUDACC__)
#include <cmath>

#include "half.h"
#endif

namespace q4j::cuda {

#if defined(__CUDACC__)

// ---------------------------------------------------------------- the device

Q4J_DEVICE uint32_t float_bits(float value) { return __float_as_uint(value); }
Q4J_DEVICE float bits_float(uint32_t bits) { return __uint_as_float(bits); }

Q4J_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
Q4J_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
Q4J_DEVICE float subtract(float a, float b) { return __fsub_rn(a, b); }
Q4J_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
Q4J_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
/** The larger; NaN where one is NaN. */
Q4J_DEVICE float maximum(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}
/** The larger; where one is NaN the other. */
Q4J_DEVICE float maximum_number(float a, float b) { return fmaxf(a, b); }
Q4J_DEVICE float absolute(float a) { return fabsf(a); }
/** Correctly rounded. */
Q4J_DEVICE float square_root(float a) { return __fsqrt_rn(a); }
Q4J_DEVICE double square_root(double a) { return __dsqrt_rn(a); }
Q4J_DEVICE float round_half_even(float a) { return rintf(a); }

// The math library's functions, within 1 ulp (exp, log) and 2 ulp (sine, cosine, at every angle) as NVIDIA states them.
Q4J_DEVICE float exponential(float a) { return expf(a); }
Q4J_DEVICE float logarithm(float a) { return logf(a); }
Q4J_DEVICE void sine_cosine(float angle, float* sine, float* cosine) { sincosf(angle, sine, cosine); }
/** 2^a in one instruction, relative error up to 2^-22; 0 where the result is below 2^-126. */
Q4J_DEVICE float exponential_2_approximate(float a) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(a));
  return power;
}
/** a / b within 2 ulp in two instructions instead of some ten; 0 where |b| is above 2^126 and a is finite. */
Q4J_DEVICE float divide_approximate(float a, float b) { return __fdividef(a, b); }

/** Bytes of the pair (low, high), numbered 0 to 7, picked by the four nibbles of `selector`. */
Q4J_DEVICE uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) { return __byte_perm(low, high, selector); }

#else

// ---------------------------------------------------------------- the host

inline uint32_t float_bits(float value) { return bits_of(value); }
inline float bits_float(uint32_t bits) { return float_of(bits); }

// The pack is compiled with -ffp-contract=off.
inline float multiply(float a, float b) { return a * b; }
inline float add(float a, float b) { return a + b; }
inline float subtract(float a, float b) { return a - b; }
inline float divide(float a, float b) { return a / b; }
/** Every NaN result is the device's: all mantissa bits set. */
inline float multiply_add(float a, float b, float c) {
  const float result = std::fma(a, b, c);
  return std::isnan(result) ? bits_float(0x7fffffffu) : result;
}
inline float maximum(float a, float b) { return std::isnan(a) || a > b ? a : b; }
inline float maximum_number(float a, float b) { return std::fmax(a, b); }
inline float absolute(float a) { return std::fabs(a); }
inline float square_root(float a) { return std::sqrt(a); }
inline double square_root(double a) { return std::sqrt(a); }
inline float round_half_even(float a) { return std::nearbyint(a); }

inline float exponential(float a) { return std::exp(a); }
inline float logarithm(float a) { return std::log(a); }
inline void sine_cosine(float angle, float* sine, float* cosine) {
  *sine = std::sin(angle);
  *cosine = std::cos(angle);
}
inline float exponential_2_approximate(float a) {
  const float power = std::exp2(a);
  return power < 0x1p-126f ? 0.0f : power;
}
inline float divide_approximate(float a, float b) { return a / b; }

inline uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = (selector >> (4 * i)) & 0xfu;
    const uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (pick & 7u))) & 0xffu;
    // Bit 3 of a selector nibble copies the byte's sign into all its bits.
    result |= ((pick & 8u) != 0 ? ((byte & 0x80u) != 0 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return result;
}

#endif

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_ARITHMETIC_H_
