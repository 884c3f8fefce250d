// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Row-wise FP8 E4M3, by the rule of half.h in vectors. */
#include "cpu_operators.h"
#include "error.h"
#include "norm.h"
#include "pack_context.h"
#include "rowwise_codes.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

#if defined(__AVX512F__)

/** Stores the codes of x: nearest, half to even, saturating; 0x7f for NaN. */
inline void store_codes(e4m3* codes, Vec x, int64_t left) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(magnitude, 20), _mm512_set1_epi32(1));
  // For |x| >= 2^-6. Infinity gives a code far above 0x7e.
  const __m512i round = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7ffff - (120 << 23)));
  const __m512i normal = _mm512_srai_epi32(_mm512_add_epi32(magnitude, round), 20);
  // Below, 2^-9 is the last place of the sum.
  const __m512 shifted = _mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(16384.0f));
  const __m512i subnormal = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(_mm512_set1_ps(16384.0f)));
  const __mmask16 small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x3c800000));
  const __m512i rounded = _mm512_min_epi32(_mm512_mask_blend_epi32(small, normal, subnormal), _mm512_set1_epi32(0x7e));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i code = _mm512_mask_blend_epi32(nan, _mm512_or_si512(rounded, sign), _mm512_set1_epi32(0x7f));
  const __m128i bytes = _mm512_cvtepi32_epi8(code);
  if (left >= kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), bytes);
  } else {
    _mm_mask_storeu_epi8(codes, first_lanes(left).m, bytes);
  }
}

#else

inline __m256i choose(__m256i mask, __m256i yes, __m256i no) { return _mm256_blendv_epi8(no, yes, mask); }

/** Stores the codes of x: nearest, half to even, saturating; 0x7f for NaN. */
inline void store_codes(e4m3* codes, Vec x, int64_t left) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(magnitude, 20), _mm256_set1_epi32(1));
  // For |x| >= 2^-6. Infinity gives a code far above 0x7e.
  const __m256i round = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7ffff - (120 << 23)));
  const __m256i normal = _mm256_srai_epi32(_mm256_add_epi32(magnitude, round), 20);
  // Below, 2^-9 is the last place of the sum.
  const __m256 shifted = _mm256_add_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(16384.0f));
  const __m256i subnormal = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(_mm256_set1_ps(16384.0f)));
  const __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), magnitude);
  const __m256i rounded = _mm256_min_epi32(choose(small, subnormal, normal), _mm256_set1_epi32(0x7e));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  const __m256i code = choose(nan, _mm256_set1_epi32(0x7f), _mm256_or_si256(rounded, sign));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
  const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
  std::memcpy(codes, &bytes, static_cast<size_t>(left < kLanes ? left : kLanes));
}

#endif

template <class T>
float row_maximum(const T* x, int64_t n) {
  Vec most = zero();
  for (int64_t i = 0; i < n; i += kLanes) most = max_magnitude(abs(load_first(x + i, n - i)), most);
  return reduce_max_magnitude(most);
}

template <class T>
void quantize_row(const T* x, int64_t n, float scale, e4m3* codes) {
  if (scale == 0.0f) {
    std::memset(codes, 0, static_cast<size_t>(n));
    return;
  }
  const Vec divisor = broadcast(scale);
  for (int64_t i = 0; i < n; i += kLanes) store_codes(codes + i, load_first(x + i, n - i) / divisor, n - i);
}

}  // namespace

q4j_status quantize_fp8_rowwise(q4j_pack_context* context, const q4j_quantize_fp8_rowwise_params* params) {
  const q4j_quantize_fp8_rowwise_params& p = *params;
  float* row_scale = static_cast<float*>(p.row_scale);
  e4m3* codes = static_cast<e4m3*>(p.codes);
  const bool known = with_storage_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    const T* x = static_cast<const T*>(p.input);
    context->pool.parallel_pieces(p.rows, rows_per_piece(p.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        row_scale[row] = row_maximum(x + row * p.cols, p.cols) / 448.0f;
        quantize_row(x + row * p.cols, p.cols, row_scale[row], codes + row * p.cols);
      }
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "quantize_fp8_rowwise: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

q4j_status dequantize_fp8_rowwise(q4j_pack_context* context, const q4j_dequantize_fp8_rowwise_params* params) {
  const q4j_dequantize_fp8_rowwise_params& p = *params;
  const bool known = with_storage_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    T* output = static_cast<T*>(p.output);
    const e4m3* codes = static_cast<const e4m3*>(p.codes);
    context->pool.parallel_pieces(p.rows, rows_per_piece(p.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const Vec scale = broadcast(static_cast<const float*>(p.row_scale)[row]);
        for (int64_t i = row * p.cols; i < (row + 1) * p.cols; i += kLanes) {
          const int64_t left = (row + 1) * p.cols - i;
          store_first(output + i, load_codes(codes + i, left) * scale, left);
        }
      }
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "dequantize_fp8_rowwise: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

}  // namespace q4j::cpu
