// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The exact nearest search in a dynamic 8-bit map, in every lane at once, by eight halving steps over the thresholds, and the
 * way back.
 */
#ifndef QLORA4J_SRC_CPU_SEARCH_8BIT_H_
#define QLORA4J_SRC_CPU_SEARCH_8BIT_H_

#include <cstdint>
#include <cstring>

#include "vec.h"

namespace q4j::cpu {

/** What the first `left` codes stand for, at most as many as there are lanes. */
static inline Vec values_of(const float* map, const uint8_t* codes, int64_t left) {
  alignas(16) uint8_t buffer[16] = {};
  std::memcpy(buffer, codes, static_cast<size_t>(left < kLanes ? left : kLanes));
  const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
#if defined(__AVX512F__)
  return {_mm512_i32gather_ps(_mm512_cvtepu8_epi32(bytes), map, 4)};
#else
  return {_mm256_i32gather_ps(map, _mm256_cvtepu8_epi32(bytes), 4)};
#endif
}

/** The search over one map's 255 thresholds (quant.h). */
class Search8Bit {
 public:
  explicit Search8Bit(const float* thresholds) : thresholds_(thresholds) {
#if defined(__AVX512F__)
    for (int i = 0; i < 15; ++i) coarse_[i] = thresholds[16 * i + 15];
    coarse_[15] = 0.0f;
#endif
  }

  /** Writes the codes of the first `left` lanes, at most all: the number of thresholds below each. NaN gives 0. */
  void store_codes(Vec x, uint8_t* codes, int64_t left) const {
    alignas(16) uint8_t buffer[16];
#if defined(__AVX512F__)
    // The first four steps look at 15 thresholds, which one register holds; a permutation costs a twentieth of a gather.
    const __m512 coarse = _mm512_load_ps(coarse_);
    __m512i code = _mm512_setzero_si512();
    for (int step = 8; step > 0; step >>= 1) {
      const __m512i index = _mm512_add_epi32(code, _mm512_set1_epi32(step - 1));
      const __mmask16 above = _mm512_cmp_ps_mask(x.v, _mm512_permutexvar_ps(index, coarse), _CMP_GT_OQ);
      code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(step));
    }
    code = _mm512_slli_epi32(code, 4);
    for (int step = 8; step > 0; step >>= 1) {
      const __m512 threshold = _mm512_i32gather_ps(code, thresholds_ + step - 1, 4);
      const __mmask16 above = _mm512_cmp_ps_mask(x.v, threshold, _CMP_GT_OQ);
      code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(step));
    }
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), _mm512_cvtepi32_epi8(code));
#else
    __m256i code = _mm256_setzero_si256();
    for (int step = 128; step > 0; step >>= 1) {
      const __m256 threshold = _mm256_i32gather_ps(thresholds_ + step - 1, code, 4);
      const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x.v, threshold, _CMP_GT_OQ));
      code = _mm256_or_si256(code, _mm256_and_si256(above, _mm256_set1_epi32(step)));
    }
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), _mm_packus_epi16(words, words));
#endif
    std::memcpy(codes, buffer, static_cast<size_t>(left < kLanes ? left : kLanes));
  }

  /** Codes of n elements relative to `absmax`; of zeros where that is 0, as 0 / 0 would be NaN. */
  void store_block(const float* x, int64_t n, float offset, float absmax, uint8_t* codes) const {
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec shifted = load_first(x + i, n - i) - broadcast(offset);
      store_codes(absmax == 0.0f ? shifted : shifted / broadcast(absmax), codes + i, n - i);
    }
  }

 private:
  const float* thresholds_;
#if defined(__AVX512F__)
  alignas(64) float coarse_[16];
#endif
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_SEARCH_8BIT_H_
