// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Many divisions by one number, each the IEEE quotient, at the price of four multiplications. */
#ifndef QLORA4J_CUDA_SUPPORT_DIVISION_H_
#define QLORA4J_CUDA_SUPPORT_DIVISION_H_

#include <cstdint>

#include "support/device.h"

namespace q4j::cuda {

/**
 * x / divisor rounded to nearest even, for 2^-27 <= divisor < 4 with reciprocal = 1 / divisor rounded, where neither x nor the
 * quotient comes near the ends of f32 (|x| and |x / divisor| in [2^-100, 2^100], or x = 0): a multiplication and two
 * multiply-adds where a division takes a dozen instructions and a branch.
 *
 * Why it is exact: the first product q is off by 2^-22 of x / divisor at most, the correction rem * reciprocal leaves an error
 * below 2^-22 of a unit in the last place. That decides the rounding only where the quotient of two 24-bit numbers X, Y lies
 * that close to the middle between two f32, which is where |2^k X - m Y| <= 8 for an odd 25-bit m, k = 24 or 25.
 * moment_codes_test.cpp computes all such X for every Y there is, and finds the quotient right.
 */
Q4J_DEVICE float divide_by(float divisor, float reciprocal, float x) {
  const float q = multiply(x, reciprocal);
  const float rem = multiply_add(-divisor, q, x);
  return multiply_add(rem, reciprocal, q);
}

/** Quotients by the largest magnitude of a block. */
struct BlockDivisor {
  float scale; /* the power of two that brings `divisor` near 1, so that nothing underflows before it is too small to matter */
  float divisor;    /* absmax * scale */
  float reciprocal; /* 1 / divisor */
};

/** For absmax >= 0, also 0 and infinity. */
Q4J_DEVICE BlockDivisor block_divisor(float absmax) {
  // 0: only zeros and NaN are divided by it. Infinity: what is finite must give 0, and infinity NaN, which is what 0 times it
  // is.
  if (absmax == 0.0f || float_bits(absmax) == 0x7f800000u) return {0.0f, 1.0f, 1.0f};
  // 2^(127 - exponent), as far as f32 goes: a divisor in [1, 2), from 2^-22 for subnormals, up to 4 at the upper end.
  const int exponent = static_cast<int>(float_bits(absmax) >> 23);
  const float scale = bits_float(static_cast<uint32_t>(exponent < 253 ? 254 - exponent : 1) << 23);
  const float divisor = multiply(absmax, scale);
  return {scale, divisor, divide(1.0f, divisor)};
}

/**
 * x / absmax for |x| <= absmax, rounded to nearest even where its magnitude is 2^-100 or more, and below 2^-99 elsewhere; 0 / 0
 * is 0; NaN for NaN. A zero may lose its sign.
 */
Q4J_DEVICE float divide_by(const BlockDivisor& block, float x) {
  return divide_by(block.divisor, block.reciprocal, multiply(x, block.scale));
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_DIVISION_H_
