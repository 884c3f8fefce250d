// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Packs a panel of an operand: `outer` rows (of A) or columns (of B) by a range of the contraction, in the orders that gemm_kernel.h
 * lists. The stored matrix is read along its rows, where elements are contiguous. Where the contraction runs along them too, a square of
 * vectors is transposed in registers; otherwise rows are copied or interleaved.
 *
 * Width is the panel's number of rows or columns; those from `outer_count` on become zeros.
 */
#ifndef QLORA4J_SRC_CPU_GEMM_PACK_H_
#define QLORA4J_SRC_CPU_GEMM_PACK_H_

#include <cstdint>

#include "gemm_kernel.h"
#include "intrinsics.h"
#include "vec.h"

namespace q4j::cpu {

/** The part of a stored matrix that goes into a panel. */
struct PanelRange {
  int64_t outer;        // first row of A or column of B
  int64_t outer_count;  // 1 to Width
  int64_t k;            // first step of the contraction
  int64_t k_count;
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

/** f32 panels: [k][Width]. Round: the values a bf16 computation uses. */
template <int Width, bool Round, class Source>
void pack_f32(const Source& source, bool contract_rows, const PanelRange& range, float* panel) {
  const auto rounded = [](Vec v) { return Round ? rounded_to<bf16>(v) : v; };
  if (contract_rows) {
    for (int64_t k = 0; k < range.k_count; ++k) {
      for (int part = 0; part < Width; part += kLanes) {
        const Vec v = rounded(source.load(range.k + k, range.outer + part, range.outer_count - part));
        store(panel + k * Width + part, v, first_lanes(Width - part));
      }
    }
    return;
  }
  for (int part = 0; part < Width; part += kLanes) {
    const Mask lanes = first_lanes(Width - part);
    for (int64_t k = 0; k < range.k_count; k += kLanes) {
      const int64_t count = range.k_count - k;
      Vec t[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        t[i] = part + i < range.outer_count ? rounded(source.load(range.outer + part + i, range.k + k, count)) : zero();
      }
      transpose(t);
      for (int i = 0; i < kLanes && i < count; ++i) store(panel + (k + i) * Width + part, t[i], lanes);
    }
  }
}

#if defined(__AVX512BF16__)

/** Elements of two rows side by side: lanes `first` .. `first` + 15 of both as 16 pairs. */
static inline __m512i interleave(__m512i row_0, __m512i row_1, int first) {
  alignas(64) static constexpr uint16_t kOrder[2][32] = {
      {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
      {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63},
  };
  return _mm512_permutex2var_epi16(row_0, _mm512_load_si512(kOrder[first / 16]), row_1);
}

/** bf16 panels of pairs: [k/2][Width][2]. The range's steps are padded with zeros to `padded_k`. */
template <int Width, class Source>
void pack_bf16_pairs(const Source& source, bool contract_rows, const PanelRange& range, int64_t padded_k, uint32_t* panel) {
  if (contract_rows) {
    for (int64_t k = 0; k < padded_k; k += 2) {
      uint32_t* to = panel + k / 2 * Width;
      for (int part = 0; part < Width; part += 32) {
        const int64_t count = range.outer_count - part;
        __m512i rows[2];
        for (int i = 0; i < 2; ++i) {
          rows[i] = k + i < range.k_count && count > 0 ? source.load_bf16(range.k + k + i, range.outer + part, count)
                                                       : _mm512_setzero_si512();
        }
        _mm512_mask_storeu_epi32(to + part, first_lanes(Width - part).m, interleave(rows[0], rows[1], 0));
        if (Width - part > 16) {
          _mm512_mask_storeu_epi32(to + part + 16, first_lanes(Width - part - 16).m, interleave(rows[0], rows[1], 16));
        }
      }
    }
    return;
  }
  for (int part = 0; part < Width; part += 16) {
    const __mmask16 lanes = first_lanes(Width - part).m;
    for (int64_t k = 0; k < padded_k; k += 32) {
      __m512i t[16];
      for (int i = 0; i < 16; ++i) {
        t[i] = part + i < range.outer_count && k < range.k_count
                   ? source.load_bf16(range.outer + part + i, range.k + k, range.k_count - k)
                   : _mm512_setzero_si512();
      }
      transpose(t);
      const int64_t pairs = (padded_k - k) / 2;
      for (int i = 0; i < 16 && i < pairs; ++i) _mm512_mask_storeu_epi32(panel + (k / 2 + i) * Width + part, lanes, t[i]);
    }
  }
}

#if defined(Q4J_AMX)
/** bf16 panels of A for tiles: [k/32][Width][32]. padded_k is a multiple of 32. */
template <int Width, class Source>
void pack_bf16_tiles(const Source& source, bool contract_rows, const PanelRange& range, int64_t padded_k, uint32_t* panel) {
  for (int64_t k = 0; k < padded_k; k += 32) {
    for (int part = 0; part < Width; part += 16) {
      __m512i t[16];
      if (contract_rows) {
        const int64_t count = range.outer_count - part;
        for (int pair = 0; pair < 16; ++pair) {
          __m512i rows[2];
          for (int i = 0; i < 2; ++i) {
            const int64_t step = k + 2 * pair + i;
            rows[i] = step < range.k_count && count > 0
                          ? source.load_bf16(range.k + step, range.outer + part, count < 16 ? count : 16)
                          : _mm512_setzero_si512();
          }
          t[pair] = interleave(rows[0], rows[1], 0);
        }
        transpose(t);
      } else {
        for (int i = 0; i < 16; ++i) {
          t[i] = part + i < range.outer_count && k < range.k_count
                     ? source.load_bf16(range.outer + part + i, range.k + k, range.k_count - k)
                     : _mm512_setzero_si512();
        }
      }
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(panel + k / 2 * Width + (part + i) * 16, t[i]);
    }
  }
}
#endif

#endif  // __AVX512BF16__

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_PACK_H_
