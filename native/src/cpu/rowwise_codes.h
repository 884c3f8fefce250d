// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Codes of the row-wise formats from and to vectors of f32, without the row's factor; and INT8's rule for a row. */
#ifndef QLORA4J_SRC_CPU_ROWWISE_CODES_H_
#define QLORA4J_SRC_CPU_ROWWISE_CODES_H_

#include <cstdint>
#include <cstring>

#include "intrinsics.h"
#include "support/half.h"
#include "vec.h"

namespace q4j::cpu {

/** The first `left` of kLanes INT8 codes, zeros beyond. */
static inline Vec load_codes(const int8_t* codes, int64_t left) {
#if defined(__AVX512F__)
  const __m128i bytes = left >= kLanes ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))
                                       : _mm_maskz_loadu_epi8(first_lanes(left).m, codes);
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
#else
  int64_t bits = 0;
  std::memcpy(&bits, codes, static_cast<size_t>(left < kLanes ? left : kLanes));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bits)))};
#endif
}

/**
 * The first `left` of kLanes E4M3 codes, zeros beyond. A code with its sign moved away is an f16 of value / 2^8, subnormal
 * where the code is; the conversion from f16 reads subnormals at full speed. 0x7f, 480 by its digits, becomes f16's quiet NaN.
 */
static inline Vec load_codes(const e4m3* codes, int64_t left) {
#if defined(__AVX512F__)
  const __m128i bytes = left >= kLanes ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))
                                       : _mm_maskz_loadu_epi8(first_lanes(left).m, codes);
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16(-0x4001));
  const __m256i largest = _mm256_set1_epi16(0x3f80);
  const __mmask16 nan = _mm256_cmpeq_epi16_mask(_mm256_and_si256(half, largest), largest);
  const __m256i value = _mm256_mask_add_epi16(half, nan, half, _mm256_set1_epi16(0x7e00 - 0x3f80));
  return {_mm512_mul_ps(_mm512_cvtph_ps(value), _mm512_set1_ps(256.0f))};
#else
  int64_t bits = 0;
  std::memcpy(&bits, codes, static_cast<size_t>(left < kLanes ? left : kLanes));
  const __m128i half = _mm_and_si128(_mm_slli_epi16(_mm_cvtepi8_epi16(_mm_cvtsi64_si128(bits)), 7), _mm_set1_epi16(-0x4001));
  const __m128i largest = _mm_set1_epi16(0x3f80);
  const __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(half, largest), largest);
  const __m128i value = _mm_add_epi16(half, _mm_and_si128(nan, _mm_set1_epi16(0x7e00 - 0x3f80)));
  return {_mm256_mul_ps(_mm256_cvtph_ps(value), _mm256_set1_ps(256.0f))};
#endif
}

/** Rounds to nearest even and stores as i8; NaN, which only a zero or non-finite row can give, becomes 0. |x| is at most 127.
 */
static inline void store_codes(int8_t* codes, Vec x, int64_t left) {
  const Vec clean = select(x <= x, x, zero());
#if defined(__AVX512F__)
  const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(clean.v));
  if (left >= kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), bytes);
  } else {
    _mm_mask_storeu_epi8(codes, first_lanes(left).m, bytes);
  }
#else
  const __m256i wide = _mm256_cvtps_epi32(clean.v);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  alignas(16) int8_t buffer[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), _mm_packs_epi16(words, words));
  std::memcpy(codes, buffer, static_cast<size_t>(left < kLanes ? left : kLanes));
#endif
}

/** The largest magnitude of n elements; NaN or infinity where one is. */
template <class T>
static inline float row_absmax(const T* x, int64_t n) {
  Vec most = zero();
  for (int64_t i = 0; i < n; i += kLanes) most = max_magnitude(abs(load_first(x + i, n - i)), most);
  return reduce_max_magnitude(most);
}

/** INT8 codes of a row: x * (127 / absmax), rounded to nearest even; 0 for what scales to NaN or beyond 127.5. */
template <class T>
static inline void encode_row(const T* x, int64_t n, float absmax, int8_t* codes) {
  const Vec factor = broadcast(127.0f / absmax);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec scaled = load_first(x + i, n - i) * factor;
    store_codes(codes + i, select(abs(scaled) <= broadcast(127.5f), scaled, zero()), n - i);
  }
}

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_ROWWISE_CODES_H_
