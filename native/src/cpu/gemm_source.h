// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Where the elements of a matrix product come from: dense matrices of three types, 4-bit weights and row-wise INT8 and FP8
 * weights, with or without dropout, read a vector at a time along a row.
 *
 * A source has load(row, column, count): `count` f32 elements from (row, column) on, at most kLanes, zeros beyond. With
 * AVX512-BF16 it also has load_bf16 for 32 elements rounded to bf16. That rounding is VCVTNE2PS2BF16's: to nearest even, with
 * results and inputs below the smallest normal number flushed to zero, as VDPBF16PS reads them anyway.
 */
#ifndef QLORA4J_SRC_CPU_GEMM_SOURCE_H_
#define QLORA4J_SRC_CPU_GEMM_SOURCE_H_

#include <cstdint>
#include <type_traits>

#include "intrinsics.h"
#include "rowwise_codes.h"
#include "support/half.h"
#include "support/philox.h"
#include "support/quant.h"
#include "vec.h"

namespace q4j::cpu {

#if defined(__AVX512BF16__)
constexpr int kLanesBf16 = 32;

static inline __mmask32 first_lanes_bf16(int64_t count) {
  return count >= 32 ? 0xffffffffu : count <= 0 ? 0u : (1u << count) - 1u;
}

/** The 32 elements of two vectors, rounded. */
static inline __m512i to_bf16(__m512 first, __m512 second) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}
#endif

/** Rows of contiguous elements, `ld` elements apart. */
template <class T>
struct DenseSource {
  const T* data;
  int64_t ld;

  Vec load(int64_t row, int64_t column, int64_t count) const {
    const T* p = data + row * ld + column;
    return count >= kLanes ? q4j::cpu::load(p) : q4j::cpu::load(p, first_lanes(count));
  }

#if defined(__AVX512BF16__)
  __m512i load_bf16(int64_t row, int64_t column, int64_t count) const {
    if constexpr (std::is_same_v<T, bf16>) {
      const T* p = data + row * ld + column;
      return count >= kLanesBf16 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(first_lanes_bf16(count), p);
    } else {
      const Vec first = load(row, column, count);
      return to_bf16(first.v, count > kLanes ? load(row, column + kLanes, count - kLanes).v : _mm512_setzero_ps());
    }
  }
#endif
};

/** A 4-bit weight in its canonical layout. */
class QuantizedSource {
 public:
  /** The smallest block: 32 elements from a multiple of 32 on lie in one block. */
  static constexpr int kChunk = 32;

  explicit QuantizedSource(const q4j_weight& weight)
      : weight_(weight),
        packed_(static_cast<const uint8_t*>(weight.data)),
        absmax_codes_(static_cast<const uint8_t*>(weight.absmax)),
        nested_absmax_(static_cast<const float*>(weight.nested_absmax)),
        nested_offset_(weight.nested_offset),
        cols_(weight.cols),
        block_size_(weight.block_size),
        shift_(__builtin_ctz(static_cast<unsigned>(weight.block_size))),
        nested_shift_(is_power_of_two(weight.nested_block_size) ? __builtin_ctz(static_cast<unsigned>(weight.nested_block_size))
                                                                : -1),
        regular_(weight.cols % kChunk == 0) {
    const float* table = values_4bit(weight.format).data();
#if defined(__AVX512F__)
    table_ = _mm512_loadu_ps(table);
#else
    low_table_ = _mm256_loadu_ps(table);
    high_table_ = _mm256_loadu_ps(table + 8);
#endif
  }

  Vec load(int64_t row, int64_t column, int64_t count) const {
    const int64_t index = this->index(row, column);
    // Rows of odd length start in the middle of a byte every other time, and the last bytes must not be read beyond their end.
    if (count < kLanes || (index & 1) != 0) return load_slowly(index, count);
    const Vec values = lookup(packed_ + (index >> 1));
    const int64_t block = index >> shift_;
    const int64_t left = ((block + 1) << shift_) - index;
    const Vec scale = broadcast(absmax_at(index));
    if (left >= kLanes) return values * scale;
    // A block has at least 32 elements, so a vector meets two of them at most.
    return values * select(first_lanes(left), scale, broadcast(absmax_at(index + left)));
  }

#if defined(__AVX512BF16__)
  __m512i load_bf16(int64_t row, int64_t column, int64_t count) const {
    const int64_t index = this->index(row, column);
    const int64_t block = index >> shift_;
    if (count < kLanesBf16 || (index & 1) != 0 || ((block + 1) << shift_) - index < kLanesBf16) {
      const Vec first = load(row, column, count);
      return to_bf16(first.v, count > kLanes ? load(row, column + kLanes, count - kLanes).v : _mm512_setzero_ps());
    }
    const __m512 scale = _mm512_set1_ps(absmax_at(index));
    const uint8_t* p = packed_ + (index >> 1);
    return to_bf16(_mm512_mul_ps(lookup(p).v, scale), _mm512_mul_ps(lookup(p + 8).v, scale));
  }

  /** The 16 values that the elements of a block can have. */
  __m256i values_bf16(float absmax) const {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_mul_ps(table_, _mm512_set1_ps(absmax))));
  }

  /** 32 elements of a chunk, given the values of its block. */
  __m512i chunk_bf16(int64_t index, __m256i values) const {
    const auto* p = reinterpret_cast<const __m128i*>(packed_ + (index >> 1));
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
    // VPERMW looks at the low five bits of an index. The values are there twice, so the fifth bit, which in the odd words
    // belongs to the other nibble, chooses between equals.
    const __m512i codes = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
    return _mm512_permutexvar_epi16(codes, _mm512_broadcast_i64x4(values));
  }
#endif

  /**
   * Whether rows consist of whole chunks. Then whoever reads the weight chunk by chunk may fetch the absmax of a block once and
   * leave out the checks that load() makes.
   */
  bool regular() const { return regular_; }
  int64_t index(int64_t row, int64_t column) const { return row * cols_ + column; }
  int64_t block_size() const { return block_size_; }

  /** The absmax of an element's block: dequantized_absmax without its 64-bit division, which took a third of the packing time.
   */
  float absmax_at(int64_t index) const {
    const int64_t block = index >> shift_;
    if (nested_shift_ < 0) return dequantized_absmax(weight_, block);
    const float product = dynamic_signed_map[absmax_codes_[block]] * nested_absmax_of(block);
    return product + nested_offset_;
  }

  /** That of the nested block of a block of a weight with double quantization. */
  float nested_absmax_of(int64_t block) const { return nested_absmax_[block >> nested_shift_]; }

  /** kLanes elements of a chunk with the block's absmax. */
  Vec chunk(int64_t index, float absmax) const { return lookup(packed_ + (index >> 1)) * broadcast(absmax); }

 private:
  // kLanes table values for kLanes / 2 bytes, the high nibble first.
  Vec lookup(const uint8_t* p) const {
#if defined(__AVX512F__)
    // Four bytes in each lane of a half, and every lane shifts its own nibble down. VPERMPS looks at the low four bits of an
    // index only.
    int32_t words[2];
    std::memcpy(words, p, sizeof words);
    const __m512i bytes = _mm512_mask_set1_epi32(_mm512_set1_epi32(words[0]), 0xff00, words[1]);
    const __m512i shifts = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
    return {_mm512_permutexvar_ps(_mm512_srlv_epi32(bytes, shifts), table_)};
#else
    int32_t four = 0;
    std::memcpy(&four, p, sizeof four);
    const __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
    const __m256i twice = _mm256_shuffle_epi32(bytes, 0xa0);
    const __m256i codes = _mm256_srlv_epi32(twice, _mm256_set1_epi64x(4));
    // VPERMPS of 256 bits looks at three bits; bit 3, moved to the sign, chooses between the halves of the table.
    const __m256 low = _mm256_permutevar8x32_ps(low_table_, codes);
    const __m256 high = _mm256_permutevar8x32_ps(high_table_, codes);
    return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)))};
#endif
  }

  Vec load_slowly(int64_t index, int64_t count) const {
    float values[kLanes] = {};
    for (int64_t i = 0; i < count && i < kLanes; ++i) values[i] = dequantized_4bit(weight_, index + i);
    return q4j::cpu::load(values);
  }

  static bool is_power_of_two(int32_t value) { return value > 0 && (value & (value - 1)) == 0; }

  const q4j_weight& weight_;
  const uint8_t* packed_;
  const uint8_t* absmax_codes_;
  const float* nested_absmax_;
  float nested_offset_;
  int64_t cols_;
  int64_t block_size_;
  int shift_;
  int nested_shift_;  // -1: not double-quantized, or by a number of blocks that is no power of two
  bool regular_;
#if defined(__AVX512F__)
  __m512 table_;
#else
  __m256 low_table_;
  __m256 high_table_;
#endif
};

/** A row-wise weight: Code is int8_t or e4m3. */
template <class Code>
class RowwiseSource {
 public:
  explicit RowwiseSource(const q4j_weight& weight)
      : codes_(static_cast<const Code*>(weight.data)), factors_(static_cast<const float*>(weight.absmax)), cols_(weight.cols) {}

  Vec load(int64_t row, int64_t column, int64_t count) const {
    if (count <= 0) return zero();
    const Vec loaded = values(codes_ + row * cols_ + column, count, broadcast(factors_[row]));
    return count >= kLanes ? loaded : select(first_lanes(count), loaded, zero());  // 0 times a factor that is not finite
  }

#if defined(__AVX512BF16__)
  __m512i load_bf16(int64_t row, int64_t column, int64_t count) const {
    const Code* p = codes_ + row * cols_ + column;
    const Vec factor = broadcast(factors_[row]);
    if (count >= kLanesBf16) return to_bf16(values(p, kLanes, factor).v, values(p + kLanes, kLanes, factor).v);
    const Vec first = load(row, column, count);
    return to_bf16(first.v, load(row, column + kLanes, count - kLanes).v);
  }
#endif

 private:
  // The multiplications of the formats' definitions, in their order.
  static Vec values(const Code* codes, int64_t count, Vec factor) {
    const Vec scaled = load_codes(codes, count) * factor;
    return std::is_same_v<Code, int8_t> ? scaled * broadcast(1.0f / 127.0f) : scaled;
  }

  const Code* codes_;
  const float* factors_;  // absmax or scale of each row
  int64_t cols_;
};

/** The dropout mask of a matrix with `columns` columns, drawn a vector at a time; see q4j_dropout. */
class DropoutMask {
 public:
  DropoutMask(const q4j_dropout& dropout, int64_t columns)
      : dropout_(dropout), columns_(columns), threshold_(dropout_threshold(dropout.probability)) {}

  /** Lanes of the elements (row, column + i) that are kept. */
  Mask keeps(int64_t row, int64_t column) const {
    const auto index = static_cast<uint32_t>((static_cast<uint64_t>(row) + static_cast<uint64_t>(dropout_.row_offset)) *
                                                 static_cast<uint64_t>(columns_) +
                                             static_cast<uint64_t>(column));
    return keeps_from(index);
  }

 private:
#if defined(__AVX512F__)
  using Words = __m512i;
  static Words set1(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static Words exclusive_or(Words a, Words b, Words c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  // High and low halves of the 64-bit products of all lanes with one factor.
  static void multiply(Words a, Words factor, Words& high, Words& low) {
    const Words even = _mm512_mul_epu32(a, factor);
    const Words odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
    high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
    low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  }
  static Words first_words(uint32_t index) {
    return _mm512_add_epi32(set1(index), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  }
  Mask at_least_threshold(Words words) const { return {_mm512_cmpge_epu32_mask(words, set1(threshold_))}; }
#else
  using Words = __m256i;
  static Words set1(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static Words exclusive_or(Words a, Words b, Words c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
  static void multiply(Words a, Words factor, Words& high, Words& low) {
    const Words even = _mm256_mul_epu32(a, factor);
    const Words odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  }
  static Words first_words(uint32_t index) { return _mm256_add_epi32(set1(index), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
  Mask at_least_threshold(Words words) const { return {_mm256_cmpeq_epi32(_mm256_max_epu32(words, set1(threshold_)), words)}; }
#endif

  Mask keeps_from(uint32_t index) const {
    Words c0 = set1(dropout_.step);
    Words c1 = set1(dropout_.micro_batch);
    Words c2 = set1(dropout_.linear);
    Words c3 = first_words(index);
    auto k0 = static_cast<uint32_t>(dropout_.seed);
    auto k1 = static_cast<uint32_t>(dropout_.seed >> 32);
    for (int round = 0; round < philox_rounds; ++round) {
      Words high_0, low_0, high_1, low_1;
      multiply(c0, set1(philox_multiplier_0), high_0, low_0);
      multiply(c2, set1(philox_multiplier_1), high_1, low_1);
      c0 = exclusive_or(high_1, c1, set1(k0));
      c1 = low_1;
      c2 = exclusive_or(high_0, c3, set1(k1));
      c3 = low_0;
      k0 += philox_weyl_0;
      k1 += philox_weyl_1;
    }
    return at_least_threshold(c0);
  }

  q4j_dropout dropout_;
  int64_t columns_;
  uint32_t threshold_;
};

/** Another source with the dropped elements set to zero. Kept ones are not scaled: the product is, in f32. */
template <class Source>
struct MaskedSource {
  Source source;
  const DropoutMask& mask;

  Vec load(int64_t row, int64_t column, int64_t count) const {
    return select(mask.keeps(row, column), source.load(row, column, count), zero());
  }

#if defined(__AVX512BF16__)
  __m512i load_bf16(int64_t row, int64_t column, int64_t count) const {
    const __mmask16 first = mask.keeps(row, column).m;
    const __mmask16 second = count > kLanes ? mask.keeps(row, column + kLanes).m : __mmask16{0};
    // KUNPCKWD. Not shift and or: GCC 12 may then spill one of the masks as 16 bits and read it back as 32.
    return _mm512_maskz_mov_epi16(_mm512_kunpackw(second, first), source.load_bf16(row, column, count));
  }
#endif
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_SOURCE_H_
