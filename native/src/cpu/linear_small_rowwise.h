// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Readers of row-wise INT8 and FP8 weights for the products of few rows (linear_small_kernel.h).
 *
 *   Codes8Reader           INT8 times rows of x that are quantized as they are arranged: 64 codes for VPDPBUSD, or parts of
 *                          kLanes pairs of 16 bits for VPMADDWD
 *   Int8F32Reader          INT8 with f32 activations, converted kLanes codes at a time
 *   Fp8Bf16Reader          E4M3 looked up among the values of the row's 128 magnitudes (AVX512-BF16)
 *   Fp8F32Reader           the same for f32 (AVX-512; linear_small_avx2.h has the other one)
 *
 * Sums of codes are 32-bit integers, which travel as f32 lanes that nothing computes with.
 */
#ifndef QLORA4J_SRC_CPU_LINEAR_SMALL_ROWWISE_H_
#define QLORA4J_SRC_CPU_LINEAR_SMALL_ROWWISE_H_

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "linear_small_kernel.h"
#include "rowwise_codes.h"

namespace q4j::cpu {

// ------------------------------------------------------------------------------------------------------------------ codes

/** Beyond, a lane's sum of products of codes might leave 32 bits: 2^20 / 16 * 255 * 127 and 2^20 / 8 * 128 * 127 do not. */
constexpr int64_t kMostCodes = int64_t{1} << 20;

#if defined(__AVX512F__)
using Integers = __m512i;
static inline Integers integers_of(Vec v) { return _mm512_castps_si512(v.v); }
static inline Vec lanes_of(Integers integers) { return {_mm512_castsi512_ps(integers)}; }
#else
using Integers = __m256i;
static inline Integers integers_of(Vec v) { return _mm256_castps_si256(v.v); }
static inline Vec lanes_of(Integers integers) { return {_mm256_castsi256_ps(integers)}; }
#endif

/** The exact sum of the 32-bit lanes. */
static inline int64_t sum_of_lanes(Vec lanes) {
  const Integers sums = integers_of(lanes);
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums)),
                                                  _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sums, 1))));
#else
  const __m256i wide = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums)),
                                        _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sums, 1)));
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  return _mm_cvtsi128_si64(_mm_add_epi64(half, _mm_unpackhi_epi64(half, half)));
#endif
}

#if defined(__AVX512VNNI__)

/** Rows of INT8 codes. VPDPBUSD wants one factor unsigned: the weight's codes get 128 added. */
struct Codes8Reader {
  using X = int8_t;
  using Order = ByRows;
  static constexpr int kParts = 1;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk;
  static constexpr int kOffset = 128;

  /** Codes of a chunk of x. Returns their sum, which kOffset needs. */
  static int arrange(const bf16* from, float absmax, int8_t* to) {
    encode_row(from, kElements, absmax, to);
    const __m512i codes = _mm512_loadu_si512(to);
    return _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes));
  }

  struct Chunk {
    const int8_t* p;
    __m512i part(int) const { return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128)); }
  };

  Chunk chunk(int64_t i) const { return {data + i * kChunk}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const int8_t* data;
};

static inline Vec multiply_add(const int8_t* x, __m512i part, Vec sum) {
  return lanes_of(_mm512_dpbusd_epi32(integers_of(sum), part, _mm512_loadu_si512(x)));
}

#else

/** Rows of INT8 codes, widened for VPMADDWD. */
struct Codes8Reader {
  using X = int16_t;
  using Order = ByRows;
  static constexpr int kParts = kChunk / (2 * kLanes);
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk;
  static constexpr int kOffset = 0;

  static int arrange(const bf16* from, float absmax, int16_t* to) {
    int8_t codes[kElements];
    encode_row(from, kElements, absmax, codes);
    for (int i = 0; i < kElements; ++i) to[i] = codes[i];
    return 0;
  }

  struct Chunk {
    const int8_t* p;
    Integers part(int i) const {
#if defined(__AVX512F__)
      return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + i));
#else
      return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i));
#endif
    }
  };

  Chunk chunk(int64_t i) const { return {data + i * kChunk}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const int8_t* data;
};

static inline Vec multiply_add(const int16_t* x, Integers part, Vec sum) {
#if defined(__AVX512F__)
  return lanes_of(_mm512_add_epi32(integers_of(sum), _mm512_madd_epi16(part, _mm512_loadu_si512(x))));
#else
  const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return lanes_of(_mm256_add_epi32(integers_of(sum), _mm256_madd_epi16(part, loaded)));
#endif
}

#endif

/** The same of rows of an even number of chunks or a multiple of four, four parts at a time. */
using FourPartsCodes8Reader =
    std::conditional_t<Codes8Reader::kParts == 1, TwoChunks<TwoChunks<Codes8Reader>>,
                       std::conditional_t<Codes8Reader::kParts == 2, TwoChunks<Codes8Reader>, Codes8Reader>>;

// ----------------------------------------------------------------------------------------------------------------- values

/** x, but a NaN without sign and payload. Of two NaNs an addition takes the first, and which one that is, compilers decide. */
static inline float with_plain_nan(float x) { return x == x ? x : NAN; }
static inline Vec with_plain_nan(Vec v) {
#if defined(__AVX512F__)
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(v.v, v.v, _CMP_UNORD_Q), v.v, _mm512_set1_ps(NAN))};
#else
  return {_mm256_blendv_ps(v.v, _mm256_set1_ps(NAN), _mm256_cmp_ps(v.v, v.v, _CMP_UNORD_Q))};
#endif
}

/** Rows of INT8 codes whose values are made kLanes at a time, as RowwiseSource does, or rounded to bf16. */
template <bool Rounded>
struct Int8F32Reader {
  using X = float;
  using Order = ByRows;
  static constexpr int kParts = kChunk / kLanes;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk;
  template <class T>
  static void arrange(const T* from, float* to) {
    arrange_plainly(from, to);
  }

  static Int8F32Reader of(const void* row, float absmax) { return {static_cast<const int8_t*>(row), broadcast(absmax)}; }

  struct Chunk {
    const int8_t* p;
    Vec absmax;
    Vec part(int i) const {
      const Vec value = load_codes(p + i * kLanes, kLanes) * absmax * broadcast(1.0f / 127.0f);
      if constexpr (Rounded) return rounded_to<bf16>(value);
      return value;
    }
  };

  Chunk chunk(int64_t i) const { return {data + i * kChunk, absmax}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const int8_t* data;
  Vec absmax;
};

#if defined(__AVX512F__)

/** The 128 magnitudes of E4M3 as bf16, which holds them exactly; the last one is NaN. */
constexpr std::array<uint16_t, 128> e4m3_magnitudes() {
  std::array<uint16_t, 128> bits = {};
  for (unsigned code = 1; code < 127; ++code) {
    unsigned exponent = 120;  // of 2^-7
    unsigned significand = code;
    if (code < 8) {  // subnormal: code * 2^-9
      exponent = 121;
      for (; significand < 8; significand *= 2) --exponent;
      significand -= 8;
    }
    bits[code] = static_cast<uint16_t>((exponent << 7) + (significand << 4));
  }
  bits[127] = 0x7fc0;
  return bits;
}
alignas(64) constexpr std::array<uint16_t, 128> kE4m3Magnitudes = e4m3_magnitudes();

/** What the magnitudes stand for, in registers. No array: GCC 12 copies that through memory. */
struct Fp8Table {
  __m512i first;
  __m512i second;
  __m512i third;
  __m512i fourth;

  static Fp8Table of_codes() {
    const auto* p = kE4m3Magnitudes.data();
    return {_mm512_load_si512(p), _mm512_load_si512(p + 32), _mm512_load_si512(p + 64), _mm512_load_si512(p + 96)};
  }

  /** Values of a row, rounded. */
  static Fp8Table of_row(float scale) {
    const auto quarter = [&](int i) {
      const auto* p = reinterpret_cast<const __m256i*>(kE4m3Magnitudes.data() + 32 * i);
      const Vec low = widen_bf16(_mm256_load_si256(p)) * broadcast(scale);
      const Vec high = widen_bf16(_mm256_load_si256(p + 1)) * broadcast(scale);
#if defined(__AVX512BF16__)
      return to_bf16(low.v, high.v);
#else
      return _mm512_inserti64x4(_mm512_castsi256_si512(round_to_bf16_bits(low)), round_to_bf16_bits(high), 1);
#endif
    };
    return {quarter(0), quarter(1), quarter(2), quarter(3)};
  }

  /**
   * The bf16 values of 32 of 64 codes: the even ones, or the odd ones. VPERMT2W looks at the low six bits of a word, bit 6
   * chooses between two of them.
   */
  __m512i look_up(__m512i codes, bool odd) const {
    const __m512i index = odd ? _mm512_srli_epi16(codes, 8) : codes;
    const __m512i signs = odd ? codes : _mm512_slli_epi16(codes, 8);
    const __m512i lower = _mm512_permutex2var_epi16(first, index, second);
    const __m512i upper = _mm512_permutex2var_epi16(third, index, fourth);
    const __mmask32 bit_6 = _mm512_test_epi16_mask(codes, _mm512_set1_epi16(odd ? 0x4000 : 0x40));
    const __m512i magnitude = _mm512_mask_blend_epi16(bit_6, lower, upper);
    return _mm512_ternarylogic_epi32(magnitude, signs, _mm512_set1_epi16(-0x8000), 0x78);  // magnitude ^ (signs & 0x8000)
  }
};

#if defined(__AVX512BF16__)

/** Rows of E4M3 codes: every value that a row can have is made once, and looked up. */
struct Fp8Bf16Reader {
  using X = bf16;
  // Four tables fit beside the sums of one row of x, and not of two.
  struct Order : ByRows {
    static constexpr int kRegisterRows = 2;
    static constexpr int columns(int64_t rows) { return rows == 1 ? 4 : 2; }
  };
  static constexpr int kParts = 2;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk;
  static void arrange(const bf16* from, bf16* to) { arrange_alternately(from, to); }

  static Fp8Bf16Reader of(const void* row, float scale) { return {static_cast<const uint8_t*>(row), Fp8Table::of_row(scale)}; }

  struct Chunk {
    __m512i codes;
    Fp8Table values;
    __m512i part(int i) const { return values.look_up(codes, i != 0); }
  };

  Chunk chunk(int64_t i) const { return {_mm512_loadu_si512(data + i * kBytes), values}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const uint8_t* data;
  Fp8Table values;
};

#endif

/** Rows of E4M3 codes for f32: looked up rounded, or exact and multiplied by the row's scale. */
template <bool Rounded>
struct Fp8F32Reader {
  using X = float;
  struct Order : ByRows {
    static constexpr int kRegisterRows = 2;
    static constexpr int columns(int64_t) { return 2; }
  };
  static constexpr int kParts = 4;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk;
  // Even and odd codes are looked up apart, and even and odd words of those widened apart.
  template <class T>
  static void arrange(const T* from, float* to) {
    const AlternateF32 first = alternate(load(from), load(from + kLanes));
    const AlternateF32 second = alternate(load(from + 2 * kLanes), load(from + 3 * kLanes));
    const AlternateF32 even = alternate(first.even, second.even);
    const AlternateF32 odd = alternate(first.odd, second.odd);
    store(to, even.even);
    store(to + kLanes, even.odd);
    store(to + 2 * kLanes, odd.even);
    store(to + 3 * kLanes, odd.odd);
  }

  static Fp8F32Reader of(const void* row, float scale) {
    return {static_cast<const uint8_t*>(row), Rounded ? Fp8Table::of_row(scale) : Fp8Table::of_codes(), broadcast(scale)};
  }

  struct Chunk {
    __m512i codes;
    Fp8Table values;
    Vec scale;
    Vec part(int i) const {
      const __m512i words = values.look_up(codes, i >= 2);
      const Vec value = {_mm512_castsi512_ps(i % 2 == 0 ? _mm512_slli_epi32(words, 16)
                                                        : _mm512_andnot_si512(_mm512_set1_epi32(0xffff), words))};
      return Rounded ? value : value * scale;
    }
  };

  Chunk chunk(int64_t i) const { return {_mm512_loadu_si512(data + i * kBytes), values, scale}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const uint8_t* data;
  Fp8Table values;
  Vec scale;
};

#endif

// ---------------------------------------------------------------------------------------------------------------- weights

/** Readers of the codes of an INT8 weight. */
template <class ReaderType>
struct MakeCodes8 {
  using Reader = ReaderType;
  struct Rows {
    const int8_t* data;
    int64_t cols;
    Reader reader(int64_t row) const { return {data + row * cols}; }
  };

  Rows rows(int64_t row, int64_t, float*) const {
    return {static_cast<const int8_t*>(weight.data) + row * weight.cols, weight.cols};
  }
  int64_t row_bytes() const { return weight.cols; }
  int64_t row_stride() const { return weight.cols; }

  const q4j_weight& weight;
};

/** Readers of the values of an INT8 or FP8 weight. */
template <class ReaderType>
struct MakeRowwise {
  using Reader = ReaderType;
  struct Rows {
    const char* data;
    int64_t cols;
    const float* factors;
    Reader reader(int64_t row) const { return Reader::of(data + row * cols, factors[row]); }
  };

  Rows rows(int64_t row, int64_t, float*) const {
    return {static_cast<const char*>(weight.data) + row * weight.cols, weight.cols,
            static_cast<const float*>(weight.absmax) + row};
  }
  int64_t row_bytes() const { return weight.cols; }
  int64_t row_stride() const { return weight.cols; }

  const q4j_weight& weight;
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_LINEAR_SMALL_ROWWISE_H_
