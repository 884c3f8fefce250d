// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Packs panels of an operand: rows (of A) or columns (of B) by a range of the contraction, in the orders that gemm_kernel.h
 * lists. The stored matrix is read along its rows, where elements are contiguous. Where the contraction runs along them too, a
 * square of vectors is transposed in registers; otherwise rows are copied or interleaved.
 *
 * Width is a panel's number of rows or columns; those of the last panel from `outer_count` on become zeros.
 *
 * Sources and ranges are passed by value: behind a reference the compiler must read them again after every store to a panel,
 * which cost half of the time of packing a 4-bit weight row by row.
 */
#ifndef QLORA4J_SRC_CPU_GEMM_PACK_H_
#define QLORA4J_SRC_CPU_GEMM_PACK_H_

#include <algorithm>
#include <cstdint>

#include "gemm_kernel.h"
#include "gemm_source.h"
#include "intrinsics.h"
#include "vec.h"

namespace q4j::cpu {

/** The part of a stored matrix that goes into panels that follow each other `stride` elements (of 32 or, bf16 pairs, 2 x 16
 * bits) apart. */
struct PanelRange {
  int64_t outer;        // first row of A or column of B
  int64_t outer_count;  // at least 1; panels = outer_count / Width, rounded up
  int64_t k;            // first step of the contraction, a multiple of 32
  int64_t k_count;
  int64_t stride;
};

#if defined(__AVX512F__)
/** Transposes 16 x 16 elements of 32 bits. */
static inline void transpose(__m512i (&t)[16]) {
  __m512i u[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    u[i] = _mm512_unpacklo_epi32(t[i], t[i + 1]);
    u[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    t[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
    t[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
    t[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
    t[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
  }
  // Now t[4 g + j] holds column 4 l + j of rows 4 g .. 4 g + 3 in its 128-bit lane l.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low_01 = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x88);
    const __m512i high_01 = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xdd);
    const __m512i low_23 = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x88);
    const __m512i high_23 = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xdd);
    u[j] = _mm512_shuffle_i32x4(low_01, low_23, 0x88);
    u[8 + j] = _mm512_shuffle_i32x4(low_01, low_23, 0xdd);
    u[4 + j] = _mm512_shuffle_i32x4(high_01, high_23, 0x88);
    u[12 + j] = _mm512_shuffle_i32x4(high_01, high_23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) t[i] = u[i];
}

static inline void transpose(Vec (&t)[16]) {
  __m512i bits[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) bits[i] = _mm512_castps_si512(t[i].v);
  transpose(bits);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) t[i].v = _mm512_castsi512_ps(bits[i]);
}
#else
static inline void transpose(Vec (&t)[8]) {
  __m256 u[8];
  for (int i = 0; i < 8; i += 2) {
    u[i] = _mm256_unpacklo_ps(t[i].v, t[i + 1].v);
    u[i + 1] = _mm256_unpackhi_ps(t[i].v, t[i + 1].v);
  }
  __m256 v[8];
  for (int i = 0; i < 8; i += 4) {
    v[i] = _mm256_shuffle_ps(u[i], u[i + 2], 0x44);
    v[i + 1] = _mm256_shuffle_ps(u[i], u[i + 2], 0xee);
    v[i + 2] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0x44);
    v[i + 3] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    t[j].v = _mm256_permute2f128_ps(v[j], v[4 + j], 0x20);
    t[4 + j].v = _mm256_permute2f128_ps(v[j], v[4 + j], 0x31);
  }
}
#endif

// Weights are read by their chunks where rows consist of whole ones.
template <class Source>
constexpr bool kIsQuantized = false;
template <>
constexpr bool kIsQuantized<QuantizedSource> = true;

// Those of the row-wise formats have nothing to look up.
template <class Source>
constexpr bool kIsRowwise = false;
template <class Code>
constexpr bool kIsRowwise<RowwiseSource<Code>> = true;

template <class Source>
static inline bool reads_chunks(const Source& source) {
  if constexpr (kIsQuantized<Source>) return source.regular();
  return false;
}

// Whether column k begins a block whose numbers have to be fetched: blocks start at the same columns in all rows only where
// rows consist of whole blocks.
static inline bool enters_block(const QuantizedSource& source, int64_t k) {
  return source.index(1, 0) % source.block_size() != 0 || k % source.block_size() == 0;
}

/** The absmax of the block that holds (row + i, k) for several rows, fetched again only where k enters a new block. */
template <int Rows>
struct RowScales {
  float absmax[Rows];

  void fetch(const QuantizedSource& source, int64_t row, int64_t rows, int64_t k, bool first) {
    if (!first && !enters_block(source, k)) return;
    for (int i = 0; i < Rows && i < rows; ++i) absmax[i] = source.absmax_at(source.index(row + i, k));
  }
};

#if defined(__AVX512BF16__)
/** The same for the 16 values of a block. */
struct RowValues {
  __m256i values[16];

  void fetch(const QuantizedSource& source, int64_t row, int64_t rows, int64_t k, bool first) {
    if (!first && !enters_block(source, k)) return;
    for (int i = 0; i < 16 && i < rows; ++i) values[i] = source.values_bf16(source.absmax_at(source.index(row + i, k)));
  }
};
#endif

// Where the contraction runs across rows, all panels take their part of this many rows before the next rows: a cache line of a
// row feeds several panels while it is in the first-level cache, and whole lines of a panel are written.
constexpr int64_t kRowsTogether = 16;

/** f32 panels: [k][Width]. Round: the values a bf16 computation uses. */
template <int Width, bool Round, class Source>
void pack_f32(const Source source, bool contract_rows, const PanelRange range, float* panels) {
  const auto rounded = [](Vec v) { return Round ? rounded_to<bf16>(v) : v; };
  const bool chunks = reads_chunks(source);
  if (contract_rows) {
    for (int64_t k0 = 0; k0 < range.k_count; k0 += kRowsTogether) {
      const int64_t k1 = std::min(k0 + kRowsTogether, range.k_count);
      for (int64_t outer = 0; outer < range.outer_count; outer += Width) {
        float* to = panels + outer / Width * range.stride + k0 * Width;
        for (int64_t k = k0; k < k1; ++k, to += Width) {
          for (int part = 0; part < Width; part += kLanes) {
            const int64_t column = range.outer + outer + part;
            const int64_t count = range.outer_count - outer - part;
            Vec v = zero();
            if constexpr (kIsQuantized<Source>) {
              // Rows of whole chunks end at a multiple of kLanes, so a vector is inside or outside of the matrix.
              if (chunks && count > 0) {
                const int64_t index = source.index(range.k + k, column);
                v = source.chunk(index, source.absmax_at(index));
              }
            }
            if (!chunks) v = source.load(range.k + k, column, count);
            store(to + part, rounded(v), first_lanes(Width - part));
          }
        }
      }
    }
    return;
  }
  float* panel = panels;
  for (int64_t outer = 0; outer < range.outer_count; outer += Width, panel += range.stride) {
    for (int part = 0; part < Width; part += kLanes) {
      const Mask lanes = first_lanes(Width - part);
      const int64_t row = range.outer + outer + part;
      const int64_t rows = range.outer_count - outer - part;
      [[maybe_unused]] RowScales<kLanes> scales;
      for (int64_t k = 0; k < range.k_count; k += kLanes) {
        const int64_t count = range.k_count - k;
        Vec t[kLanes];
        if constexpr (kIsQuantized<Source>) {
          if (chunks) scales.fetch(source, row, rows, range.k + k, k == 0);
        }
        for (int i = 0; i < kLanes; ++i) {
          if (i >= rows) {
            t[i] = zero();
            continue;
          }
          if constexpr (kIsQuantized<Source>) {
            if (chunks) {
              t[i] = rounded(source.chunk(source.index(row + i, range.k + k), scales.absmax[i]));
              continue;
            }
          }
          t[i] = rounded(source.load(row + i, range.k + k, count));
        }
        transpose(t);
        for (int i = 0; i < kLanes && i < count; ++i) store(panel + (k + i) * Width + part, t[i], lanes);
      }
    }
  }
}

#if defined(__AVX512BF16__)

/** Elements of two rows side by side: lanes `first` .. `first` + 15 of both as 16 pairs. */
static inline __m512i interleave(__m512i row_0, __m512i row_1, int first) {
  alignas(64) static constexpr uint16_t kOrder[2][32] = {
      {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
      {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63},
  };
  return _mm512_permutex2var_epi16(row_0, _mm512_load_si512(kOrder[first / 16]), row_1);
}

/** 16 rows of 32 elements from step `k` of the range on, zeros for rows and steps that the matrix lacks. */
template <class Source>
static inline void load_rows_bf16(const Source& source, const PanelRange& range, int64_t row, int64_t rows, int64_t k,
                                  [[maybe_unused]] RowValues& values, __m512i (&t)[16]) {
  if constexpr (kIsQuantized<Source>) {
    if (source.regular() && k < range.k_count) {
      values.fetch(source, row, rows, range.k + k, k == 0);
      if (rows >= 16) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) t[i] = source.chunk_bf16(source.index(row + i, range.k + k), values.values[i]);
        return;
      }
    }
  }
  if constexpr (kIsRowwise<Source>) {
    if (rows >= 16 && range.k_count - k >= kLanesBf16) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) t[i] = source.load_bf16(row + i, range.k + k, kLanesBf16);
      return;
    }
  }
  for (int i = 0; i < 16; ++i) {
    t[i] = i < rows && k < range.k_count ? source.load_bf16(row + i, range.k + k, range.k_count - k) : _mm512_setzero_si512();
  }
}

/** bf16 panels of pairs where the contraction runs across rows. Chunks: the source is a weight whose rows are whole chunks. */
template <int Width, bool Chunks, class Source>
void pack_rows_bf16(const Source source, const PanelRange range, int64_t padded_k, uint32_t* panels) {
  static_assert(Width <= 32, "a panel takes one vector from a row");
  for (int64_t k0 = 0; k0 < padded_k; k0 += kRowsTogether) {
    const int64_t k1 = std::min(k0 + kRowsTogether, padded_k);
    [[maybe_unused]] RowValues values;
    for (int64_t outer = 0; outer < range.outer_count; outer += Width) {
      const int64_t column = range.outer + outer;
      const int64_t count = std::min<int64_t>(range.outer_count - outer, Width);
      uint32_t* to = panels + outer / Width * range.stride + k0 / 2 * Width;
      if constexpr (kIsQuantized<Source> && Chunks) values.fetch(source, range.k + k0, range.k_count - k0, column, outer == 0);
      for (int64_t k = k0; k < k1; k += 2, to += Width) {
        __m512i rows[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          if (k + i >= range.k_count) continue;
          if constexpr (kIsQuantized<Source> && Chunks) {
            rows[i] = source.chunk_bf16(source.index(range.k + k + i, column), values.values[k - k0 + i]);
          } else {
            rows[i] = source.load_bf16(range.k + k + i, column, count);
          }
        }
        if constexpr (Width == 32) {
          _mm512_storeu_si512(to, interleave(rows[0], rows[1], 0));
          _mm512_storeu_si512(to + 16, interleave(rows[0], rows[1], 16));
        } else {
          static_assert(Width == 32 || Width <= 16, "one vector of pairs");
          _mm512_mask_storeu_epi32(to, first_lanes(Width).m, interleave(rows[0], rows[1], 0));
        }
      }
    }
  }
}

/** bf16 panels of pairs: [k/2][Width][2]. The range's steps are padded with zeros to `padded_k`. */
template <int Width, class Source>
void pack_bf16_pairs(const Source source, bool contract_rows, const PanelRange range, int64_t padded_k, uint32_t* panels) {
  if (contract_rows) {
    if (reads_chunks(source)) {
      pack_rows_bf16<Width, true>(source, range, padded_k, panels);
    } else {
      pack_rows_bf16<Width, false>(source, range, padded_k, panels);
    }
    return;
  }
  uint32_t* panel = panels;
  for (int64_t outer = 0; outer < range.outer_count; outer += Width, panel += range.stride) {
    for (int part = 0; part < Width; part += 16) {
      const __mmask16 lanes = first_lanes(Width - part).m;
      const int64_t rows = std::min<int64_t>(range.outer_count - outer, Width) - part;
      RowValues values;
      for (int64_t k = 0; k < padded_k; k += 32) {
        __m512i t[16];
        load_rows_bf16(source, range, range.outer + outer + part, rows, k, values, t);
        transpose(t);
        uint32_t* to = panel + k / 2 * Width + part;
        if (padded_k - k >= 32 && Width - part >= 16) {
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * Width, t[i]);
          continue;
        }
        const int64_t pairs = (padded_k - k) / 2;
        for (int i = 0; i < 16 && i < pairs; ++i) _mm512_mask_storeu_epi32(to + i * Width, lanes, t[i]);
      }
    }
  }
}

#if defined(Q4J_AMX)
/** bf16 panels of A for tiles: [k/32][Width][32]. padded_k is a multiple of 32. */
template <int Width, class Source>
void pack_bf16_tiles(const Source source, bool contract_rows, const PanelRange range, int64_t padded_k, uint32_t* panels) {
  uint32_t* panel = panels;
  for (int64_t outer = 0; outer < range.outer_count; outer += Width, panel += range.stride) {
    for (int part = 0; part < Width; part += 16) {
      const int64_t first = range.outer + outer + part;
      const int64_t count = std::min<int64_t>(range.outer_count - outer, Width) - part;
      RowValues values;
      for (int64_t k = 0; k < padded_k; k += 32) {
        __m512i t[16];
        if (contract_rows) {
          for (int pair = 0; pair < 16; ++pair) {
            __m512i rows[2];
            for (int i = 0; i < 2; ++i) {
              const int64_t step = k + 2 * pair + i;
              rows[i] = step < range.k_count && count > 0 ? source.load_bf16(range.k + step, first, count < 16 ? count : 16)
                                                          : _mm512_setzero_si512();
            }
            t[pair] = interleave(rows[0], rows[1], 0);
          }
          transpose(t);
        } else {
          load_rows_bf16(source, range, first, count, k, values, t);
        }
        for (int i = 0; i < 16; ++i) _mm512_storeu_si512(panel + k / 2 * Width + (part + i) * 16, t[i]);
      }
    }
  }
}
#endif

#endif  // __AVX512BF16__

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_PACK_H_
