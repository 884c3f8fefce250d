// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Blockwise 8-bit with a dynamic map: an exact nearest search, in every lane by eight halving steps over the thresholds. */
#include <algorithm>

#include "cpu_operators.h"
#include "pack_context.h"
#include "quant.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

/** Elements per piece of work, at least, in whole blocks. */
int64_t grain(int64_t block_size) { return std::max<int64_t>(1, 16384 / block_size) * block_size; }

/** Codes of a vector of scaled elements: the number of thresholds below each. NaN gives 0. */
inline void store_codes(const float* thresholds, Vec x, uint8_t* codes, int64_t left) {
  alignas(64) uint8_t buffer[16];
#if defined(__AVX512F__)
  __m512i code = _mm512_setzero_si512();
  for (int step = 128; step > 0; step >>= 1) {
    const __m512 threshold = _mm512_i32gather_ps(code, thresholds + step - 1, 4);
    const __mmask16 above = _mm512_cmp_ps_mask(x.v, threshold, _CMP_GT_OQ);
    code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(step));
  }
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), _mm512_cvtepi32_epi8(code));
#else
  __m256i code = _mm256_setzero_si256();
  for (int step = 128; step > 0; step >>= 1) {
    const __m256 threshold = _mm256_i32gather_ps(thresholds + step - 1, code, 4);
    const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x.v, threshold, _CMP_GT_OQ));
    code = _mm256_or_si256(code, _mm256_and_si256(above, _mm256_set1_epi32(step)));
  }
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), _mm_packus_epi16(words, words));
#endif
  std::memcpy(codes, buffer, static_cast<size_t>(left < kLanes ? left : kLanes));
}

inline Vec values_of(const float* map, const uint8_t* codes, int64_t left) {
  alignas(16) uint8_t buffer[16] = {};
  std::memcpy(buffer, codes, static_cast<size_t>(left < kLanes ? left : kLanes));
  const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
#if defined(__AVX512F__)
  return {_mm512_i32gather_ps(_mm512_cvtepu8_epi32(bytes), map, 4)};
#else
  return {_mm256_i32gather_ps(map, _mm256_cvtepu8_epi32(bytes), 4)};
#endif
}

}  // namespace

q4j_status quantize_8bit_blockwise(q4j_pack_context* context, const q4j_quantize_8bit_blockwise_params* params) {
  const q4j_quantize_8bit_blockwise_params& p = *params;
  const float* thresholds = (p.map == Q4J_MAP_DYNAMIC_UNSIGNED ? dynamic_unsigned_thresholds : dynamic_signed_thresholds).data();
  const float* input = static_cast<const float*>(p.input);
  uint8_t* codes = static_cast<uint8_t*>(p.codes);
  float* absmax = static_cast<float*>(p.absmax);
  context->pool.parallel_pieces(p.n, grain(p.block_size), [&](int64_t first, int64_t last, int) {
    for (int64_t begin = first; begin < last; begin += p.block_size) {
      const int64_t end = std::min<int64_t>(begin + p.block_size, last);
      Vec most = zero();
      for (int64_t i = begin; i < end; i += kLanes) most = max_magnitude(most, abs(load_first(input + i, end - i)));
      const float largest = reduce_max_magnitude(most);
      absmax[begin / p.block_size] = largest;
      for (int64_t i = begin; i < end; i += kLanes) {
        // 0 / 0 of an all-zero block is NaN and would give code 0; the code of 0 is meant.
        const Vec x = load_first(input + i, end - i);
        const Vec scaled = largest == 0.0f ? x : x / broadcast(largest);
        store_codes(thresholds, scaled, codes + i, end - i);
      }
    }
  });
  return Q4J_OK;
}

q4j_status dequantize_8bit_blockwise(q4j_pack_context* context, const q4j_dequantize_8bit_blockwise_params* params) {
  const q4j_dequantize_8bit_blockwise_params& p = *params;
  const float* map = (p.map == Q4J_MAP_DYNAMIC_UNSIGNED ? dynamic_unsigned_map : dynamic_signed_map).data();
  const uint8_t* codes = static_cast<const uint8_t*>(p.codes);
  const float* absmax = static_cast<const float*>(p.absmax);
  float* output = static_cast<float*>(p.output);
  context->pool.parallel_pieces(p.n, grain(p.block_size), [&](int64_t first, int64_t last, int) {
    for (int64_t begin = first; begin < last; begin += p.block_size) {
      const int64_t end = std::min<int64_t>(begin + p.block_size, last);
      const Vec scale = broadcast(absmax[begin / p.block_size]);
      for (int64_t i = begin; i < end; i += kLanes) {
        store_first(output + i, values_of(map, codes + i, end - i) * scale, end - i);
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::cpu
