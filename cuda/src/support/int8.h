// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Row-wise INT8 codes in kernels: quantize_int8_rowwise's rule for one element. */
#ifndef QLORA4J_CUDA_SUPPORT_INT8_H_
#define QLORA4J_CUDA_SUPPORT_INT8_H_

#include "support/elements.h"

namespace q4j::cuda {

/** What a row is scaled by before it is rounded. */
Q4J_DEVICE float int8_scale(float row_absmax) { return divide(127.0f, row_absmax); }

/** The code's byte; 0 where the scaled element is not a number within +-127.5 (rows of zeros, NaN). */
Q4J_DEVICE uint32_t encode_int8(float x, float scale) {
  const float scaled = multiply(x, scale);
  return absolute(scaled) <= 127.5f ? static_cast<uint32_t>(static_cast<int>(round_half_even(scaled))) & 255u : 0u;
}

/** The codes of eight elements of a row. */
template <typename T>
Q4J_DEVICE Words2 encode_eight_int8(const Eight<T>& eight, float scale) {
  Words2 bytes = {{0u, 0u}};
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i) bytes.word[i / 4] |= encode_int8(element(eight, i), scale) << (8 * (i % 4));
  return bytes;
}

/** A code's value in a row with this absmax: the ABI's order of operations. */
Q4J_DEVICE float int8_value(float code, float row_absmax) { return multiply(multiply(code, row_absmax), 1.0f / 127.0f); }

/** Four codes as numbers, the lowest byte's first: a permute and a subtraction each, where a conversion runs at a quarter of
 * the rate. */
Q4J_DEVICE void decode_int8_four(uint32_t codes, float (&code)[4]) {
  // code + 128 is what the byte holds once its highest bit is flipped; as the last byte of 2^23 it is 2^23 + 128 + code.
  const uint32_t flipped = codes ^ 0x80808080u;
  Q4J_UNROLL
  for (int i = 0; i < 4; ++i) {
    code[i] = subtract(bits_float(byte_permute(flipped, 0x4b000000u, 0x7540u | static_cast<uint32_t>(i))), 8388736.0f);
  }
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_SUPPORT_INT8_H_
