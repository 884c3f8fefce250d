// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Readers for the products of few rows (linear_small_kernel.h) on 256 bits, where decoding takes longer than memory does.
 *
 *   CodesF32Reader      4-bit codes: the bytes of a block's 16 values, looked up 32 codes at a time
 *   Fp8F32Reader        E4M3, 16 codes at a time
 */
#ifndef QLORA4J_SRC_CPU_LINEAR_SMALL_AVX2_H_
#define QLORA4J_SRC_CPU_LINEAR_SMALL_AVX2_H_

#include <cstdint>

#include "linear_small_rowwise.h"

namespace q4j::cpu {

/** Bits of `a` with the upper halves rounded to nearest even; the lower halves hold what is left. A NaN stays
 * one where with_plain_nan() has been applied to the factor that made it. */
static inline __m256i round_plainly(Vec a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}

/** Rows of 4-bit codes: a table of 16 bytes for every byte of a value, for VPSHUFB. Values rounded to bf16 have two. */
template <bool Rounded, bool HalfBlocks>
struct CodesF32Reader {
  using X = float;
  // A table takes two registers or four; beside the sums of more rows there is room for one.
  struct Order : ByRows {
    static constexpr int columns(int64_t rows) { return Rounded || rows <= 2 ? 2 : 1; }
  };
  static constexpr int kParts = kChunk / kLanes;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk / 2;

  // Of the 32 bytes, whose high halves come first, a part takes four of eight from both lanes: every other one, or
  // one half.
  template <class T>
  static void arrange(const T* from, float* to) {
    for (int i = 0; i < kElements; ++i) {
      const int part = i / kLanes;
      const int lane = i % kLanes;
      const int of_eight = Rounded ? lane % 4 * 2 + part % 2 : part % 2 * 4 + lane % 4;
      const int byte = lane / 4 * 16 + part / 2 % 2 * 8 + of_eight;
      to[i] = to_f32(from[2 * byte + part / 4]);
    }
  }

  /** The bytes of a block's values, for both lanes, from the lowest on; rounded values have the last
   * two only. */
  struct Bytes {
    __m256i first;
    __m256i second;
    __m256i third;
    __m256i fourth;
  };

  struct Chunk {
    __m256i codes;
    Bytes table;
    Vec part(int i) const {
      const __m256i index = _mm256_and_si256(i < 4 ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
      const auto words = [&](__m256i low_table, __m256i high_table) {
        const __m256i low = _mm256_shuffle_epi8(low_table, index);
        const __m256i high = _mm256_shuffle_epi8(high_table, index);
        return i / 2 % 2 == 0 ? _mm256_unpacklo_epi8(low, high) : _mm256_unpackhi_epi8(low, high);
      };
      const __m256i upper = words(table.third, table.fourth);
      if constexpr (Rounded) {
        return {_mm256_castsi256_ps(i % 2 == 0 ? _mm256_slli_epi32(upper, 16)
                                               : _mm256_andnot_si256(_mm256_set1_epi32(0xffff), upper))};
      } else {
        const __m256i lower = words(table.first, table.second);
        return {_mm256_castsi256_ps(i % 2 == 0 ? _mm256_unpacklo_epi16(lower, upper) : _mm256_unpackhi_epi16(lower, upper))};
      }
    }
  };

  Chunk chunk(int64_t i) const {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i * kBytes));
    if constexpr (HalfBlocks) {
      const Bytes a = bytes_of(scales[2 * i]);
      const Bytes b = bytes_of(scales[2 * i + 1]);
      return {codes,
              {_mm256_blend_epi32(a.first, b.first, 0xf0), _mm256_blend_epi32(a.second, b.second, 0xf0),
               _mm256_blend_epi32(a.third, b.third, 0xf0), _mm256_blend_epi32(a.fourth, b.fourth, 0xf0)}};
    } else {
      return {codes, bytes_of(scales[i])};
    }
  }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  Bytes bytes_of(float scale) const {
    const __m256i first_two = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
    const __m256i last_two = _mm256_setr_epi32(2, 6, 3, 7, 2, 6, 3, 7);
    if constexpr (Rounded) {
      const Vec factor = broadcast(with_plain_nan(scale));
      // Words 0-3, 8-11 in one lane and 4-7, 12-15 in the other, then the low bytes of each four and the high ones.
      const __m256i words = _mm256_packus_epi32(_mm256_srli_epi32(round_plainly(values->low * factor), 16),
                                                _mm256_srli_epi32(round_plainly(values->high * factor), 16));
      const __m256i split = _mm256_packus_epi16(_mm256_and_si256(words, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(words, 8));
      const __m256i none = _mm256_setzero_si256();
      return {none, none, _mm256_permutevar8x32_epi32(split, first_two), _mm256_permutevar8x32_epi32(split, last_two)};
    } else {
      // The first bytes of four values, their second ones, and so on; then fours of both vectors alternate.
      const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
      const __m256i low = _mm256_shuffle_epi8(_mm256_castps_si256((values->low * broadcast(scale)).v), order);
      const __m256i high = _mm256_shuffle_epi8(_mm256_castps_si256((values->high * broadcast(scale)).v), order);
      const __m256i lower = _mm256_unpacklo_epi32(low, high);
      const __m256i upper = _mm256_unpackhi_epi32(low, high);
      return {_mm256_permutevar8x32_epi32(lower, first_two), _mm256_permutevar8x32_epi32(lower, last_two),
              _mm256_permutevar8x32_epi32(upper, first_two), _mm256_permutevar8x32_epi32(upper, last_two)};
    }
  }

  const uint8_t* data;
  const float* scales;
  const Table4Bit* values;
};

/** Rows of E4M3 codes, by way of f16 as in load_codes(). */
template <bool Rounded>
struct Fp8F32Reader {
  using X = float;
  using Order = ByRows;
  static constexpr int kParts = kChunk / kLanes;
  static constexpr int kElements = kChunk;
  static constexpr int kBytes = kChunk;
  template <class T>
  static void arrange(const T* from, float* to) {
    arrange_plainly(from, to);
  }

  static Fp8F32Reader of(const void* row, float scale) {
    return {static_cast<const uint8_t*>(row), broadcast(with_plain_nan(scale))};
  }

  struct Chunk {
    const uint8_t* p;
    Vec scale;
    Vec part(int i) const {
      const __m256i codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i / 2));
      const __m256i half = _mm256_and_si256(_mm256_slli_epi16(codes, 7), _mm256_set1_epi16(-0x4001));
      // 0x7f, 0x3f80 here, is the only one that a carry reaches bit 14 from. With that bit it is a NaN.
      const __m256i carry = _mm256_and_si256(_mm256_add_epi16(half, _mm256_set1_epi16(0x80)), _mm256_set1_epi16(0x4000));
      const __m256i whole = _mm256_or_si256(half, carry);
      const __m128i eight = i % 2 == 0 ? _mm256_castsi256_si128(whole) : _mm256_extracti128_si256(whole, 1);
      const Vec value = Vec{_mm256_cvtph_ps(eight)} * broadcast(256.0f) * scale;
      if constexpr (!Rounded) return value;
      return {_mm256_castsi256_ps(_mm256_andnot_si256(_mm256_set1_epi32(0xffff), round_plainly(value)))};
    }
  };

  Chunk chunk(int64_t i) const { return {data + i * kBytes, scale}; }
  const char* bytes() const { return reinterpret_cast<const char*>(data); }

  const uint8_t* data;
  Vec scale;
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_LINEAR_SMALL_AVX2_H_
