// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Small dense products for attention: blocks of rows of q, k, v and dout in the two orders that a broadcasting kernel reads,
 * and the kernel itself.
 *
 * Everything is made of 32-bit cells. With f32 arithmetic a cell is one f32; where the CPU multiplies pairs of bf16 (VDPBF16PS)
 * and the activations are bf16, a cell is two neighbours along the summed axis. A product is always c[m][n] (+)= sum over depth
 * of a[m][depth] * b[depth][n] with a's cells broadcast, at any two strides, and b's and c's rows contiguous along n.
 */
#ifndef QLORA4J_SRC_CPU_ATTENTION_BLOCK_H_
#define QLORA4J_SRC_CPU_ATTENTION_BLOCK_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "round_up.h"
#include "vec.h"

namespace q4j::cpu {

/** One f32 per cell. */
struct Singles {
  using Cell = float;
  static constexpr int kPerCell = 1;

  static Vec cells(const Cell* b) { return load(b); }
  static Vec cell(const Cell* a) { return broadcast(*a); }
  static Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
};

#if defined(__AVX512BF16__)

/** Two bf16 per cell, the first in the low half. Products and sums in f32. */
struct Pairs {
  using Cell = uint32_t;
  static constexpr int kPerCell = 2;

  static Vec cells(const Cell* b) { return {_mm512_castsi512_ps(_mm512_loadu_si512(b))}; }
  static Vec cell(const Cell* a) { return {_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*a)))}; }
  static Vec multiply_add(Vec a, Vec b, Vec c) {
    __m512bh left, right;
    std::memcpy(&left, &a.v, sizeof left);
    std::memcpy(&right, &b.v, sizeof right);
    return {_mm512_dpbf16_ps(c.v, left, right)};
  }
};

/** How activations of type T are multiplied. */
template <class T>
using CellsOf = std::conditional_t<std::is_same_v<T, bf16>, Pairs, Singles>;

#else

template <class T>
using CellsOf = Singles;

#endif

/** What a product does with the old values of c. */
enum class Old { kIgnore, kAdd, kScale /* multiplied, column by column, and added to */ };

/** Rows and vectors of the register tile: 16 accumulators with AVX-512, 8 with AVX2. */
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif

template <class M, int Vectors, Old old>
static inline void tile(int64_t depth, const typename M::Cell* a, int64_t a_row, int64_t a_depth, const typename M::Cell* b,
                        int64_t ldb, float* c, int64_t ldc, const float* factors) {
  Vec sum[kTileRows][Vectors];
  for (int m = 0; m < kTileRows; ++m) {
    for (int v = 0; v < Vectors; ++v) {
      if constexpr (old == Old::kIgnore) {
        sum[m][v] = zero();
      } else {
        sum[m][v] = load(c + m * ldc + v * kLanes);
        if constexpr (old == Old::kScale) sum[m][v] *= load(factors + v * kLanes);
      }
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[Vectors];
    for (int v = 0; v < Vectors; ++v) right[v] = M::cells(b + k * ldb + v * kLanes);
    for (int m = 0; m < kTileRows; ++m) {
      const Vec left = M::cell(a + m * a_row + k * a_depth);
      for (int v = 0; v < Vectors; ++v) sum[m][v] = M::multiply_add(left, right[v], sum[m][v]);
    }
  }
  for (int m = 0; m < kTileRows; ++m) {
    for (int v = 0; v < Vectors; ++v) store(c + m * ldc + v * kLanes, sum[m][v]);
  }
}

/** The product. m: a multiple of 8; n: a multiple of kLanes; depth: in cells. */
template <class M, Old old>
static void multiply(int64_t m, int64_t n, int64_t depth, const typename M::Cell* a, int64_t a_row, int64_t a_depth,
                     const typename M::Cell* b, int64_t ldb, float* c, int64_t ldc, const float* factors = nullptr) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= n; column += 2 * kLanes) {
    for (int64_t row = 0; row < m; row += kTileRows) {
      tile<M, 2, old>(depth, a + row * a_row, a_row, a_depth, b + column, ldb, c + row * ldc + column, ldc, factors + column);
    }
  }
  if (column < n) {
    for (int64_t row = 0; row < m; row += kTileRows) {
      tile<M, 1, old>(depth, a + row * a_row, a_row, a_depth, b + column, ldb, c + row * ldc + column, ldc, factors + column);
    }
  }
}

/** Transposes kLanes x kLanes 32-bit values. */
static inline void transpose_square(const void* from, int64_t from_stride, void* to, int64_t to_stride) {
  const float* source = static_cast<const float*>(from);
  float* target = static_cast<float*>(to);
#if defined(__AVX512F__)
  __m512 r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(source + i * from_stride);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int k = 0; k < 2; ++k) {
      const __m512d low = _mm512_castps_pd(t[i + k]);
      const __m512d high = _mm512_castps_pd(t[i + k + 2]);
      r[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      r[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  // r[4g + j] holds, in its four 128-bit parts p, column 4p + j of rows 4g .. 4g + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512 low = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88);
    const __m512 high = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
    const __m512 low2 = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
    const __m512 high2 = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
    _mm512_storeu_ps(target + j * to_stride, _mm512_shuffle_f32x4(low, low2, 0x88));
    _mm512_storeu_ps(target + (4 + j) * to_stride, _mm512_shuffle_f32x4(high, high2, 0x88));
    _mm512_storeu_ps(target + (8 + j) * to_stride, _mm512_shuffle_f32x4(low, low2, 0xdd));
    _mm512_storeu_ps(target + (12 + j) * to_stride, _mm512_shuffle_f32x4(high, high2, 0xdd));
  }
#else
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(source + i * from_stride);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      const __m256d low = _mm256_castps_pd(t[i + k]);
      const __m256d high = _mm256_castps_pd(t[i + k + 2]);
      r[i + 2 * k] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
      r[i + 2 * k + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
    }
  }
  for (int j = 0; j < 4; ++j) {
    _mm256_storeu_ps(target + j * to_stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
    _mm256_storeu_ps(target + (4 + j) * to_stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
  }
#endif
}

/** to[column][row] = from[row][column]; both counts are rounded up to multiples of kLanes, which the buffers must have room
 * for. */
static inline void transpose(const void* from, int64_t from_stride, int64_t rows, int64_t columns, void* to,
                             int64_t to_stride) {
  for (int64_t column = 0; column < columns; column += kLanes) {
    for (int64_t row = 0; row < rows; row += kLanes) {
      transpose_square(static_cast<const float*>(from) + row * from_stride + column, from_stride,
                       static_cast<float*>(to) + column * to_stride + row, to_stride);
    }
  }
}

/** The sizes that follow from a head's width. */
template <class M>
struct HeadShape {
  explicit HeadShape(int64_t head_dim)
      : dim(head_dim),
        depth(head_dim / M::kPerCell),
        row_cells(round_up(depth, kLanes)),
        columns(round_up(head_dim, kLanes)),
        joined_cells(row_cells * M::kPerCell) {}

  int64_t dim;
  int64_t depth;         // cells of one row along the head
  int64_t row_cells;     // the same, padded: distance between staged rows
  int64_t columns;       // dim padded to whole vectors
  int64_t joined_cells;  // distance between the rows of a joined block; at least `columns`
};

/** Copies one row into cells along the head; the padding becomes zero. bf16 pairs lie in memory as they are wanted. */
template <class M, class T>
static inline void stage_row(const HeadShape<M>& shape, const T* row, typename M::Cell* cells) {
  for (int64_t i = 0; i < shape.row_cells; i += kLanes) {
#if defined(__AVX512BF16__)
    if constexpr (M::kPerCell == 2) {
      const Mask on = first_lanes(shape.depth - i);
      _mm512_storeu_si512(cells + i, _mm512_maskz_loadu_epi32(on.m, row + 2 * i));
      continue;
    }
#endif
    if constexpr (M::kPerCell == 1) store(cells + i, load_first(row + i, shape.dim - i));
  }
}

template <class M>
static inline void clear_rows(const HeadShape<M>& shape, typename M::Cell* cells, int64_t rows) {
  if (rows > 0) std::memset(cells, 0, static_cast<size_t>(rows * shape.row_cells) * sizeof(*cells));
}

/**
 * Staged rows with neighbours joined along the row axis: joined[row / kPerCell][i]. rows: a multiple of kPerCell. With one
 * value per cell that is what staging gave, and nothing is copied.
 */
template <class M>
static inline const typename M::Cell* join_rows(const HeadShape<M>& shape, const typename M::Cell* staged, int64_t rows,
                                                typename M::Cell* joined) {
#if defined(__AVX512BF16__)
  if constexpr (M::kPerCell == 2) {
    alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kLow);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t row = 0; row < rows; row += 2) {
      const typename M::Cell* first = staged + row * shape.row_cells;
      const typename M::Cell* second = first + shape.row_cells;
      typename M::Cell* to = joined + row / 2 * shape.joined_cells;
      for (int64_t i = 0; i < shape.row_cells; i += kLanes) {
        const __m512i a = _mm512_loadu_si512(first + i);
        const __m512i b = _mm512_loadu_si512(second + i);
        _mm512_storeu_si512(to + 2 * i, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(to + 2 * i + kLanes, _mm512_permutex2var_epi16(a, high, b));
      }
    }
    return joined;
  }
#endif
  (void)shape;
  (void)rows;
  (void)joined;
  return staged;
}

#if defined(__AVX512BF16__)

/** Cells of the bf16 of two rows: low halves from `first`. */
static inline __m512i joined_pair(Vec first, Vec second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
                                         4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh(second.v, first.v);
  __m512i bits;
  std::memcpy(&bits, &both, sizeof bits);
  return _mm512_permutexvar_epi16(order, bits);
}

/** The bf16 of two neighbouring vectors of one row. */
static inline __m512i row_pair(Vec first, Vec second) {
  const __m512bh both = _mm512_cvtne2ps_pbh(second.v, first.v);
  __m512i bits;
  std::memcpy(&bits, &both, sizeof bits);
  return bits;
}

#endif

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_ATTENTION_BLOCK_H_
