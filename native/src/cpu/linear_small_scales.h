// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The absmax of a 4-bit weight's blocks for the products of few rows, double-quantized ones many at a time. */
#ifndef QLORA4J_SRC_CPU_LINEAR_SMALL_SCALES_H_
#define QLORA4J_SRC_CPU_LINEAR_SMALL_SCALES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "gemm_source.h"
#include "intrinsics.h"
#include "linear_small_kernel.h"
#include "support/quant.h"
#include "vec.h"

namespace q4j::cpu {

#if defined(__AVX512F__)

/** The signed dynamic map as two planes of 16 bits, for VPERMT2W, which picks from 64 words. */
struct MapPlanes {
  MapPlanes() {
    for (size_t i = 0; i < 256; ++i) {
      low[i] = static_cast<uint16_t>(bits_of(dynamic_signed_map[i]));
      high[i] = static_cast<uint16_t>(bits_of(dynamic_signed_map[i]) >> 16);
    }
  }
  alignas(64) uint16_t low[256];
  alignas(64) uint16_t high[256];
};

/** Values of the signed dynamic map, 32 codes at a time: an instruction a code, where a gather takes more. */
class DynamicMap {
 public:
  static constexpr int64_t kCodes = 2 * kLanes;

  /** Those of the first `count` of kCodes codes; no more are read. */
  void look_up(const uint8_t* codes, int64_t count, Vec& first, Vec& second) const {
    const auto there = static_cast<__mmask32>(count < kCodes ? (uint32_t{1} << count) - 1 : ~uint32_t{0});
    const __m256i bytes = _mm256_maskz_loadu_epi8(there, codes);
    const __m512i lower = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(bytes));
    const __m512i upper = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(bytes, 1));
    const __m512i words = _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16));
    const __m512i low = pick(planes().low, words);
    const __m512i high = pick(planes().high, words);
    first = {
        _mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(high, 16)))};
    second = {
        _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(low, 16), _mm512_andnot_si512(_mm512_set1_epi32(0xffff), high)))};
  }

 private:
  static const MapPlanes& planes() {
    static const MapPlanes kPlanes;
    return kPlanes;
  }

  // The words of a plane that the low bytes of `index` name.
  static __m512i pick(const uint16_t* plane, __m512i index) {
    __m512i quarters[4];
    for (int i = 0; i < 4; ++i) {
      quarters[i] = _mm512_permutex2var_epi16(_mm512_load_si512(plane + 64 * i), index, _mm512_load_si512(plane + 64 * i + 32));
    }
    const __mmask32 bit_6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(0x40));
    const __mmask32 bit_7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(0x80));
    return _mm512_mask_blend_epi16(bit_7, _mm512_mask_blend_epi16(bit_6, quarters[0], quarters[1]),
                                   _mm512_mask_blend_epi16(bit_6, quarters[2], quarters[3]));
  }
};

#endif

/** The absmax of a weight's blocks, for some of them at a time. */
class Scales {
 public:
  /** How many codes are decoded at once; the smallest nested block. */
  static constexpr int64_t kDecoded = 32;

  explicit Scales(const q4j_weight& weight)
      : weight_(weight),
        source_(weight),
        unit_(weight.block_size == QuantizedSource::kChunk ? QuantizedSource::kChunk : kChunk),
        per_row_(weight.cols / unit_) {}

  /** One per chunk, or two with blocks of half a chunk. */
  int64_t per_row() const { return per_row_; }

  /** Elements of the buffer of of_rows() for so many rows of k elements. */
  static int64_t buffer_elements(int64_t rows, int64_t k) { return rows * k / QuantizedSource::kChunk + 2 * kDecoded; }

  /** Those of `rows` rows: in the weight itself, or somewhere in `buffer`. */
  const float* of_rows(int64_t row, int64_t rows, float* buffer) const {
    const int64_t first = row * per_row_;
    const int64_t count = rows * per_row_;
    if (weight_.block_size != unit_) {
      for (int64_t i = 0; i < count; ++i) buffer[i] = source_.absmax_at((first + i) * unit_);
      return buffer;
    }
    if (weight_.nested_block_size == 0) return static_cast<const float*>(weight_.absmax) + first;
    float* to = buffer + first % kDecoded;
    decode_all(first, count, kAhead, to);
    return to;
  }

  /**
   * Copies those of `columns` columns of a row, whole chunks, to `to`. Those of the row `ahead` rows further on are fetched.
   * May write kDecoded elements more before and after.
   */
  void copy_part(int64_t row, int64_t column, int64_t columns, int64_t ahead, float* to) const {
    const int64_t first = row * per_row_ + column / unit_;
    const int64_t count = columns / unit_;
    if (weight_.block_size != unit_) {
      for (int64_t i = 0; i < count; ++i) to[i] = source_.absmax_at((first + i) * unit_);
    } else if (weight_.nested_block_size == 0) {
      const float* from = static_cast<const float*>(weight_.absmax) + first;
      fetch_lines(reinterpret_cast<uintptr_t>(from) + static_cast<uintptr_t>(ahead * per_row_ * 4), count * 4);
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    } else {
      decode_all(first, count, ahead * per_row_, to);
    }
  }

 private:
  // How far ahead codes are fetched: 16 rows of 4096 elements in blocks of 64.
  static constexpr int64_t kAhead = 1024;

  // An address may lie beyond the array.
  static void fetch_lines(uintptr_t address, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(address + static_cast<uintptr_t>(i)), _MM_HINT_T0);
    }
  }

  // Double-quantized ones, and fetches those `distance` blocks further on, so that they need not be waited for. They are
  // decoded from a multiple of kDecoded on, so that what is decoded at once lies in one nested block.
  void decode_all(int64_t first, int64_t count, int64_t distance, float* to) const {
    const int64_t blocks = weight_.rows * per_row_;
    const int64_t ahead = std::min(first + count + distance, blocks);
    fetch_lines(reinterpret_cast<uintptr_t>(weight_.absmax) + static_cast<uintptr_t>(first + distance),
                ahead - (first + distance));
    for (int64_t i = first / kDecoded * kDecoded; i < first + count; i += kDecoded) {
      decode(i, std::min(blocks - i, kDecoded), to + (i - first));
    }
  }

  // The absmax of `count` blocks, kDecoded at most, of one nested block. Writes kDecoded elements at most.
  void decode(int64_t block, int64_t count, float* to) const {
#if defined(__AVX512F__)
    static_assert(DynamicMap::kCodes == kDecoded);
    Vec low, high;
    DynamicMap().look_up(static_cast<const uint8_t*>(weight_.absmax) + block, count, low, high);
    const Vec factor = broadcast(source_.nested_absmax_of(block));
    store(to, low * factor + broadcast(weight_.nested_offset));
    store(to + kLanes, high * factor + broadcast(weight_.nested_offset));
#else
    for (int64_t i = 0; i < count; ++i) to[i] = source_.absmax_at((block + i) * unit_);
#endif
  }

  const q4j_weight& weight_;
  QuantizedSource source_;
  int64_t unit_;
  int64_t per_row_;
};

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_LINEAR_SMALL_SCALES_H_
