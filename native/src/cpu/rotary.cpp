// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Rotary position embedding, in place. Cos and sin are computed once per (token, frequency) and used for all heads.
 *
 * Angles reach 131072 radians and more, where f32 has an ulp of 2^-7: the angle is rounded to f32 by definition (Hugging Face's
 * models do so), but reducing it must not add to that. The reduction by pi/2 is made in f64 with a two-part constant and one
 * FMA each, so its error is some 1e-16 for every angle below 2^31; what follows is a polynomial in f32.
 */
#include <algorithm>

#include "cpu_operators.h"
#include "error.h"
#include "pack_context.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
// pi/2 in two parts: the f64 next to it, and what that leaves.
constexpr double kHalfPi = 0x1.921fb54442d18p+0;
constexpr double kHalfPiRest = 0x1.1a62633145c07p-54;

/** An angle as quadrant * pi/2 + r, |r| <= pi/4. */
struct Reduced {
  Vec r;
#if defined(__AVX512F__)
  __m512i quadrant;
#else
  __m256i quadrant;
#endif
};

#if defined(__AVX512F__)

inline void reduce_half(__m256 angle, __m256& r, __m256i& quadrant) {
  const __m512d x = _mm512_cvtps_pd(angle);
  const __m512d n =
      _mm512_roundscale_pd(_mm512_mul_pd(x, _mm512_set1_pd(kTwoOverPi)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512d rest = _mm512_fnmadd_pd(n, _mm512_set1_pd(kHalfPi), x);
  r = _mm512_cvtpd_ps(_mm512_fnmadd_pd(n, _mm512_set1_pd(kHalfPiRest), rest));
  quadrant = _mm512_cvtpd_epi32(n);
}

inline Reduced reduce(Vec angle) {
  __m256 low, high;
  __m256i low_quadrant, high_quadrant;
  reduce_half(_mm512_castps512_ps256(angle.v), low, low_quadrant);
  reduce_half(_mm512_extractf32x8_ps(angle.v, 1), high, high_quadrant);
  return {{_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)},
          _mm512_inserti32x8(_mm512_castsi256_si512(low_quadrant), high_quadrant, 1)};
}

/** Swaps where the quadrant is odd and flips the sign where bit 1 of quadrant + shift is set. */
inline Vec in_quadrant(__m512i quadrant, Vec even, Vec odd, int shift) {
  const __mmask16 is_odd = _mm512_test_epi32_mask(quadrant, _mm512_set1_epi32(1));
  const __m512i sign =
      _mm512_slli_epi32(_mm512_and_si512(_mm512_add_epi32(quadrant, _mm512_set1_epi32(shift)), _mm512_set1_epi32(2)), 30);
  return {_mm512_xor_ps(_mm512_mask_blend_ps(is_odd, even.v, odd.v), _mm512_castsi512_ps(sign))};
}

#else

inline void reduce_half(__m128 angle, __m128& r, __m128i& quadrant) {
  const __m256d x = _mm256_cvtps_pd(angle);
  const __m256d n =
      _mm256_round_pd(_mm256_mul_pd(x, _mm256_set1_pd(kTwoOverPi)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256d rest = _mm256_fnmadd_pd(n, _mm256_set1_pd(kHalfPi), x);
  r = _mm256_cvtpd_ps(_mm256_fnmadd_pd(n, _mm256_set1_pd(kHalfPiRest), rest));
  quadrant = _mm256_cvtpd_epi32(n);
}

inline Reduced reduce(Vec angle) {
  __m128 low, high;
  __m128i low_quadrant, high_quadrant;
  reduce_half(_mm256_castps256_ps128(angle.v), low, low_quadrant);
  reduce_half(_mm256_extractf128_ps(angle.v, 1), high, high_quadrant);
  return {{_mm256_set_m128(high, low)}, _mm256_set_m128i(high_quadrant, low_quadrant)};
}

/** Swaps where the quadrant is odd and flips the sign where bit 1 of quadrant + shift is set. */
inline Vec in_quadrant(__m256i quadrant, Vec even, Vec odd, int shift) {
  const __m256 is_odd = _mm256_castsi256_ps(_mm256_slli_epi32(quadrant, 31));
  const __m256i sign =
      _mm256_slli_epi32(_mm256_and_si256(_mm256_add_epi32(quadrant, _mm256_set1_epi32(shift)), _mm256_set1_epi32(2)), 30);
  return {_mm256_xor_ps(_mm256_blendv_ps(even.v, odd.v, is_odd), _mm256_castsi256_ps(sign))};
}

#endif

/** Within 1.5 ulp for |angle| < 2^31; NaN for NaN and infinity. */
inline void sincos(Vec angle, Vec& sine, Vec& cosine) {
  const Reduced reduced = reduce(angle);
  const Vec r = reduced.r;
  const Vec r2 = r * r;
  // Taylor polynomials: what they leave out, r^11 / 11! and r^12 / 12!, is below 2e-9 for |r| <= pi/4.
  Vec s = broadcast(1.0f / 362880.0f);
  s = fma(s, r2, broadcast(-1.0f / 5040.0f));
  s = fma(s, r2, broadcast(1.0f / 120.0f));
  s = fma(s, r2, broadcast(-1.0f / 6.0f));
  s = fma(r * r2, s, r);
  Vec c = broadcast(-1.0f / 3628800.0f);
  c = fma(c, r2, broadcast(1.0f / 40320.0f));
  c = fma(c, r2, broadcast(-1.0f / 720.0f));
  c = fma(c, r2, broadcast(1.0f / 24.0f));
  c = fma(c, r2, broadcast(-0.5f));
  c = fma(c, r2, broadcast(1.0f));
  sine = in_quadrant(reduced.quadrant, s, c, 0);
  cosine = in_quadrant(reduced.quadrant, c, s, 1);
}

/** Frequencies whose cos and sin are kept at a time. */
constexpr int64_t kChunk = 128;

template <class T>
void rotate_token(const q4j_rotary_params& p, int64_t token) {
  const int64_t half = p.rotary_dim / 2;
  const float* frequencies = static_cast<const float*>(p.inverse_frequencies);
  const Vec position = broadcast(static_cast<float>(static_cast<const int32_t*>(p.positions)[token]));
  const Vec factor = broadcast(p.attention_scale);
  alignas(64) float cosines[kChunk];
  alignas(64) float sines[kChunk];
  for (int64_t first = 0; first < half; first += kChunk) {
    const int64_t count = std::min(kChunk, half - first);
    for (int64_t i = 0; i < count; i += kLanes) {
      Vec s, c;
      sincos(position * load_first(frequencies + first + i, count - i), s, c);
      s = rounded_to<T>(s * factor);
      store(cosines + i, rounded_to<T>(c * factor));
      store(sines + i, p.inverse != 0 ? zero() - s : s);
    }
    for (int64_t head = 0; head < p.heads; ++head) {
      T* low = static_cast<T*>(p.x) + token * p.token_stride + head * p.head_stride + first;
      T* high = low + half;
      for (int64_t i = 0; i < count; i += kLanes) {
        const Vec a = load_first(low + i, count - i);
        const Vec b = load_first(high + i, count - i);
        const Vec c = load(cosines + i);
        const Vec s = load(sines + i);
        store_first(low + i, fnma(b, s, a * c), count - i);
        store_first(high + i, fma(a, s, b * c), count - i);
      }
    }
  }
}

}  // namespace

q4j_status rotary(q4j_pack_context* context, const q4j_rotary_params* params) {
  const q4j_rotary_params& p = *params;
  const int64_t per_token = std::max<int64_t>(1, p.heads * p.rotary_dim);
  const bool known = with_activation_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    context->pool.parallel_pieces(p.tokens, std::max<int64_t>(1, 32768 / per_token), [&](int64_t begin, int64_t end, int) {
      for (int64_t token = begin; token < end; ++token) rotate_token<T>(p, token);
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "rotary: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

}  // namespace q4j::cpu
