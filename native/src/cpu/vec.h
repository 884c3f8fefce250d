// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * One vector of f32: 16 lanes with AVX-512, 8 with AVX2, chosen by the flags the translation unit is compiled with.
 *
 * Loads widen bf16 and f16, stores round once to nearest even. Tails are handled by masks: a masked load gives 0 in the lanes
 * that are off and does not touch their memory, a masked store leaves it alone.
 *
 * Build with -ffp-contract=off: GCC contracts a multiplication and an addition of intrinsics into one FMA otherwise, and the
 * formats' rules count roundings. Where an FMA is wanted, fma() says so.
 */
#ifndef QLORA4J_SRC_CPU_VEC_H_
#define QLORA4J_SRC_CPU_VEC_H_

#include <cstdint>
#include <cstring>

#include "half.h"
#include "intrinsics.h"

namespace q4j::cpu {

#if defined(__AVX512F__)

constexpr int kLanes = 16;

struct Vec {
  __m512 v;
};

struct Mask {
  __mmask16 m;
};

static inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
static inline Vec zero() { return {_mm512_setzero_ps()}; }
static inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }

/** a * b + c with one rounding. */
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/** c - a * b with one rounding. */
static inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }

/** The second operand where either is NaN. */
static inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
/** The larger of two non-negative values; NaN where either is NaN, because the bits of a NaN exceed those of infinity. */
static inline Vec max_magnitude(Vec a, Vec b) {
  return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}
static inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
static inline Vec round_even(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

static inline Mask first_lanes(int64_t count) {
  return {static_cast<__mmask16>(count >= kLanes ? 0xffffu : count <= 0 ? 0u : (1u << count) - 1u)};
}
static inline Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
static inline Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
static inline Mask operator>=(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
static inline Mask operator<(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
static inline Mask operator<=(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
static inline bool any(Mask a) { return a.m != 0; }
static inline bool is_set(Mask a, int lane) { return (a.m >> lane & 1) != 0; }
/** Lanes of `yes` where the mask is on, of `no` elsewhere. */
static inline Vec select(Mask mask, Vec yes, Vec no) { return {_mm512_mask_blend_ps(mask.m, no.v, yes.v)}; }

static inline float reduce_add(Vec a) { return _mm512_reduce_add_ps(a.v); }
static inline float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }
static inline float reduce_max_magnitude(Vec a) {
  return float_of(static_cast<uint32_t>(_mm512_reduce_max_epi32(_mm512_castps_si512(a.v))));
}

static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline Vec load(const float* p, Mask mask) { return {_mm512_maskz_loadu_ps(mask.m, p)}; }
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
static inline void store(float* p, Vec a, Mask mask) { _mm512_mask_storeu_ps(p, mask.m, a.v); }

static inline Vec widen_bf16(__m256i bits) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))}; }
static inline Vec load(const bf16* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline Vec load(const bf16* p, Mask mask) { return widen_bf16(_mm256_maskz_loadu_epi16(mask.m, p)); }
static inline Vec load(const f16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
static inline Vec load(const f16* p, Mask mask) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask.m, p))}; }

// Integer rounding, not VCVTNEPS2BF16: that instruction flushes denormals to zero.
static inline __m256i round_to_bf16_bits(Vec a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(quiet, 16));
}
static inline void store(bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_to_bf16_bits(a)); }
static inline void store(bf16* p, Vec a, Mask mask) { _mm256_mask_storeu_epi16(p, mask.m, round_to_bf16_bits(a)); }
static inline void store(f16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void store(f16* p, Vec a, Mask mask) {
  _mm256_mask_storeu_epi16(p, mask.m, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/** `a` rounded to T's precision and widened again. */
template <class T>
static inline Vec rounded_to(Vec a);
template <>
inline Vec rounded_to<float>(Vec a) {
  return a;
}
template <>
inline Vec rounded_to<bf16>(Vec a) {
  return widen_bf16(round_to_bf16_bits(a));
}

/** a * 2^n for integral n; overflow gives infinity, underflow denormals and zero. */
static inline Vec scale_by_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }

#else

constexpr int kLanes = 8;

struct Vec {
  __m256 v;
};

struct Mask {
  __m256i m;  // all ones where on
};

static inline Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
static inline Vec zero() { return {_mm256_setzero_ps()}; }
static inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }

/** a * b + c with one rounding. */
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
/** c - a * b with one rounding. */
static inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }

/** The second operand where either is NaN. */
static inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
/** The larger of two non-negative values; NaN where either is NaN, because the bits of a NaN exceed those of infinity. */
static inline Vec max_magnitude(Vec a, Vec b) {
  return {_mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)))};
}
static inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
static inline Vec round_even(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

static inline Mask first_lanes(int64_t count) {
  const int clamped = count > kLanes ? kLanes : count < 0 ? 0 : static_cast<int>(count);
  return {_mm256_cmpgt_epi32(_mm256_set1_epi32(clamped), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))};
}
static inline Mask operator&(Mask a, Mask b) { return {_mm256_and_si256(a.m, b.m)}; }
static inline Mask operator>(Vec a, Vec b) { return {_mm256_castps_si256(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ))}; }
static inline Mask operator>=(Vec a, Vec b) { return {_mm256_castps_si256(_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ))}; }
static inline Mask operator<(Vec a, Vec b) { return {_mm256_castps_si256(_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))}; }
static inline Mask operator<=(Vec a, Vec b) { return {_mm256_castps_si256(_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ))}; }
static inline bool any(Mask a) { return _mm256_movemask_ps(_mm256_castsi256_ps(a.m)) != 0; }
static inline bool is_set(Mask a, int lane) { return (_mm256_movemask_ps(_mm256_castsi256_ps(a.m)) >> lane & 1) != 0; }
/** Lanes of `yes` where the mask is on, of `no` elsewhere. */
static inline Vec select(Mask mask, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, _mm256_castsi256_ps(mask.m))}; }

static inline float reduce_add(Vec a) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
static inline float reduce_max(Vec a) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}
static inline float reduce_max_magnitude(Vec a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  __m128i most = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
  most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
  return float_of(static_cast<uint32_t>(_mm_cvtsi128_si32(most)));
}

static inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline Vec load(const float* p, Mask mask) { return {_mm256_maskload_ps(p, mask.m)}; }
static inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
static inline void store(float* p, Vec a, Mask mask) { _mm256_maskstore_ps(p, mask.m, a.v); }

static inline Vec widen_bf16(__m128i bits) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))}; }
// AVX2 has no masked 16-bit loads and stores. Masks here are always the first lanes, so their count says all.
static inline int lanes_on(Mask mask) {
  return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(mask.m))));
}
static inline __m128i load_first_16bit(const void* p, int count) {
  alignas(16) uint16_t buffer[8] = {};
  std::memcpy(buffer, p, static_cast<size_t>(count) * 2);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
}
static inline void store_first_16bit(void* p, __m128i bits, int count) {
  alignas(16) uint16_t buffer[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), bits);
  std::memcpy(p, buffer, static_cast<size_t>(count) * 2);
}
static inline Vec load(const bf16* p) { return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
static inline Vec load(const bf16* p, Mask first) { return widen_bf16(load_first_16bit(p, lanes_on(first))); }
static inline Vec load(const f16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
static inline Vec load(const f16* p, Mask first) { return {_mm256_cvtph_ps(load_first_16bit(p, lanes_on(first)))}; }

static inline __m128i round_to_bf16_bits(Vec a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 nan = _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i chosen = _mm256_srli_epi32(
      _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan)), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}
static inline void store(bf16* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), round_to_bf16_bits(a)); }
static inline void store(bf16* p, Vec a, Mask first) { store_first_16bit(p, round_to_bf16_bits(a), lanes_on(first)); }
static inline void store(f16* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void store(f16* p, Vec a, Mask first) {
  store_first_16bit(p, _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), lanes_on(first));
}

/** `a` rounded to T's precision and widened again. */
template <class T>
static inline Vec rounded_to(Vec a);
template <>
inline Vec rounded_to<float>(Vec a) {
  return a;
}
template <>
inline Vec rounded_to<bf16>(Vec a) {
  return widen_bf16(round_to_bf16_bits(a));
}

/** a * 2^n for integral n; overflow gives infinity, underflow denormals and zero. */
static inline Vec scale_by_power(Vec a, Vec n) {
  // In two halves, because 2^n itself may not be an f32. |n| beyond 2 * 126 cannot matter to a caller in [1/2, 2].
  const __m256i whole = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(n.v, _mm256_set1_ps(-252.0f)), _mm256_set1_ps(252.0f)));
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, _mm256_set1_epi32(127)), 23));
  const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, _mm256_set1_epi32(127)), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, first), second)};
}

#endif

static inline Vec& operator+=(Vec& a, Vec b) { return a = a + b; }
static inline Vec& operator*=(Vec& a, Vec b) { return a = a * b; }

/** Stores a whole number of lanes or, in the tail, the first `count` of them. */
template <class T>
static inline void store_first(T* p, Vec a, int64_t count) {
  if (count >= kLanes) {
    store(p, a);
  } else {
    store(p, a, first_lanes(count));
  }
}

/** Loads a whole number of lanes or, in the tail, the first `count` of them and zeros. */
template <class T>
static inline Vec load_first(const T* p, int64_t count) {
  return count >= kLanes ? load(p) : load(p, first_lanes(count));
}

/**
 * e^x, within 1 ulp where the result is normal; overflows to infinity, underflows through denormals to zero, NaN stays.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2, r carried by a two-part ln 2; e^r by its Taylor polynomial of degree 7, whose remainder
 * r^8 / 8! is below 5.2e-9 there, a twelfth of an ulp.
 */
static inline Vec exp(Vec x) {
  // Beyond these e^x is 0 or infinity; max and min keep a NaN in the second operand.
  const Vec bounded = min(broadcast(90.0f), max(broadcast(-105.0f), x));
  const Vec n = round_even(bounded * broadcast(1.44269504088896341f));
  // 0.693359375 has 9 bits, so n times it is exact.
  const Vec r = fnma(n, broadcast(-2.12194440e-4f), fnma(n, broadcast(0.693359375f), bounded));
  Vec p = broadcast(1.0f / 5040.0f);
  p = fma(p, r, broadcast(1.0f / 720.0f));
  p = fma(p, r, broadcast(1.0f / 120.0f));
  p = fma(p, r, broadcast(1.0f / 24.0f));
  p = fma(p, r, broadcast(1.0f / 6.0f));
  p = fma(p, r, broadcast(0.5f));
  // 1 + (r + r^2 p): the last addition rounds a small term into 1.
  p = broadcast(1.0f) + fma(r * r, p, r);
  return scale_by_power(p, n);
}

/**
 * 2^x, within 2 ulp where the result is normal; underflows through denormals to zero, NaN stays. For x below 2^15; +infinity
 * gives NaN. Half the work of exp(): the reduction is exact, and the polynomial, fitted for |r| <= 1/2 to a relative error of
 * 9.2e-8 with its constant term held at 1, has degree 5.
 */
static inline Vec exp2(Vec x) {
  const Vec bounded = max(broadcast(-160.0f), x);
  const Vec n = round_even(bounded);
  const Vec r = bounded - n;
  Vec p = broadcast(0.0013264724984765053f);
  p = fma(p, r, broadcast(0.009671512991189957f));
  p = fma(p, r, broadcast(0.05550733581185341f));
  p = fma(p, r, broadcast(0.24022242426872253f));
  p = fma(p, r, broadcast(0.6931470036506653f));
  p = fma(p, r, broadcast(1.0f));
  return scale_by_power(p, n);
}

/** 1 / (1 + e^-x). */
static inline Vec sigmoid(Vec x) { return broadcast(1.0f) / (broadcast(1.0f) + exp(zero() - x)); }

/**
 * Calls f(element type tag) for the activation types. The tag is a null pointer of the type, so that a generic lambda can read
 * it: with_activation_type(dtype, [&](auto* tag) { using T = std::remove_pointer_t<decltype(tag)>; ... }). False for any other
 * type.
 */
template <class F>
static inline bool with_activation_type(int32_t dtype, F&& f) {
  switch (dtype) {
    case Q4J_F32:
      f(static_cast<float*>(nullptr));
      return true;
    case Q4J_BF16:
      f(static_cast<bf16*>(nullptr));
      return true;
    default:
      return false;
  }
}

/** The same with f16, which is a storage type. */
template <class F>
static inline bool with_storage_type(int32_t dtype, F&& f) {
  if (dtype == Q4J_F16) {
    f(static_cast<f16*>(nullptr));
    return true;
  }
  return with_activation_type(dtype, f);
}

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_VEC_H_
