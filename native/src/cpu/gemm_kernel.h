// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The innermost products: a tile of C, kTileRows x kTileColumns in f32, gets the product of a panel of A and a panel of B.
 *
 * Panels are packed so that the kernel reads both from front to back. Rows, columns and steps of the contraction beyond the
 * matrix are zeros in them.
 *
 * - f32: A is [k][kTileRows], B is [k][kTileColumns].
 * - bf16: A is [k/2][kTileRows][2], B is [k/2][kTileColumns][2], pairs along the contraction, as VDPBF16PS multiplies them.
 * - bf16 on AMX: A is [k/32][kTileRows][32], a tile of it 16 rows of 64 bytes; B as bf16.
 *
 * Every element of C is summed in the order of the contraction, whatever the tile's place, its number of rows, or the thread.
 *
 * The tiles: AVX-512 12 x 32 has 24 accumulators, two vectors of B and a broadcast from memory, so 24 products need 14 loads;
 * two products per cycle wait 12 cycles for each other, more than their latency. AVX2 6 x 16 has 12 accumulators. AMX 32 x 32
 * has four.
 */
#ifndef QLORA4J_SRC_CPU_GEMM_KERNEL_H_
#define QLORA4J_SRC_CPU_GEMM_KERNEL_H_

#include <cstdint>

#include "amx.h"
#include "intrinsics.h"
#include "vec.h"

namespace q4j::cpu {

#if defined(Q4J_AMX)
constexpr int kTileRows = 32;
#elif defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileColumns = 2 * kLanes;
constexpr int kTileElements = kTileRows * kTileColumns;

// Most rows whose accumulators fit into the registers.
#if defined(__AVX512F__)
constexpr int kKernelRows = 12;
#else
constexpr int kKernelRows = 6;
#endif

/** Whether the first product of a tile overwrites it or adds to it. */
enum class Accumulate : bool { kNo, kYes };

/** C = (C +) A * B * alpha for Rows rows; a and c point to the first of them. */
template <int Rows>
static inline void multiply_rows_f32(int64_t k, const float* __restrict a, const float* __restrict b, float* __restrict c,
                                     Accumulate accumulate, float alpha) {
  Vec sums[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    const bool add = accumulate == Accumulate::kYes;
    sums[i][0] = add ? load(c + i * kTileColumns) : zero();
    sums[i][1] = add ? load(c + i * kTileColumns + kLanes) : zero();
  }
  for (int64_t step = 0; step < k; ++step) {
    const Vec b0 = load(b);
    const Vec b1 = load(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Vec a_i = broadcast(a[i]);
      sums[i][0] = fma(a_i, b0, sums[i][0]);
      sums[i][1] = fma(a_i, b1, sums[i][1]);
    }
    a += kTileRows;
    b += kTileColumns;
  }
  const Vec factor = broadcast(alpha);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    store(c + i * kTileColumns, alpha == 1.0f ? sums[i][0] : sums[i][0] * factor);
    store(c + i * kTileColumns + kLanes, alpha == 1.0f ? sums[i][1] : sums[i][1] * factor);
  }
}

#if defined(__AVX512BF16__)
template <int Rows>
static inline void multiply_rows_bf16(int64_t k, const uint32_t* __restrict a, const uint32_t* __restrict b,
                                      float* __restrict c, Accumulate accumulate, float alpha) {
  __m512 sums[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    const bool add = accumulate == Accumulate::kYes;
    sums[i][0] = add ? _mm512_loadu_ps(c + i * kTileColumns) : _mm512_setzero_ps();
    sums[i][1] = add ? _mm512_loadu_ps(c + i * kTileColumns + 16) : _mm512_setzero_ps();
  }
  for (int64_t step = 0; step < k; step += 2) {
    const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b));
    const auto b1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + 16));
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const auto a_i = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[i])));
      sums[i][0] = _mm512_dpbf16_ps(sums[i][0], b0, a_i);
      sums[i][1] = _mm512_dpbf16_ps(sums[i][1], b1, a_i);
    }
    a += kTileRows;
    b += kTileColumns;
  }
  const __m512 factor = _mm512_set1_ps(alpha);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    _mm512_storeu_ps(c + i * kTileColumns, alpha == 1.0f ? sums[i][0] : _mm512_mul_ps(sums[i][0], factor));
    _mm512_storeu_ps(c + i * kTileColumns + 16, alpha == 1.0f ? sums[i][1] : _mm512_mul_ps(sums[i][1], factor));
  }
}
#endif

#if defined(Q4J_AMX)
/** C = (C +) A * B on tiles, steps of 64 bytes of each row of A: bf16 into f32, or INT8 codes into i32. */
template <bool Codes>
static inline void multiply_amx(int64_t steps, const void* a, const void* b, void* c, Accumulate accumulate) {
  constexpr int64_t kRowBytes = kTileColumns * 4;
  char* c_tile = static_cast<char*>(c);
  if (accumulate == Accumulate::kYes) {
    amx::load_tile<0>(c_tile, kRowBytes);
    amx::load_tile<1>(c_tile + 64, kRowBytes);
    amx::load_tile<2>(c_tile + 16 * kRowBytes, kRowBytes);
    amx::load_tile<3>(c_tile + 16 * kRowBytes + 64, kRowBytes);
  } else {
    amx::zero_tile<0>();
    amx::zero_tile<1>();
    amx::zero_tile<2>();
    amx::zero_tile<3>();
  }
  const char* a_tile = static_cast<const char*>(a);
  const char* b_tile = static_cast<const char*>(b);
  for (int64_t step = 0; step < steps; ++step) {
    // A comes from the second-level cache, one line in each two cycles: asked for a step ahead, it does not hold up the tiles.
    for (int line = 0; line < 32; ++line) _mm_prefetch(a_tile + 2048 + line * 64, _MM_HINT_T0);
    amx::load_tile<4>(a_tile, 64);
    amx::load_tile<6>(b_tile, kRowBytes);
    amx::multiply<Codes, 0, 4, 6>();
    amx::load_tile<7>(b_tile + 64, kRowBytes);
    amx::multiply<Codes, 1, 4, 7>();
    amx::load_tile<5>(a_tile + 1024, 64);
    amx::multiply<Codes, 2, 5, 6>();
    amx::multiply<Codes, 3, 5, 7>();
    a_tile += 2048;
    b_tile += 2048;
  }
  amx::store_tile<0>(c_tile, kRowBytes);
  amx::store_tile<1>(c_tile + 64, kRowBytes);
  amx::store_tile<2>(c_tile + 16 * kRowBytes, kRowBytes);
  amx::store_tile<3>(c_tile + 16 * kRowBytes + 64, kRowBytes);
}
#endif

/** C = (C +) A * B * alpha. rows: those of the tile that are wanted, 1 to kTileRows. alpha multiplies what the tile held, too.
 */
void multiply_tile_f32(int rows, int64_t k, const float* a, const float* b, float* c, Accumulate accumulate, float alpha);

#if defined(__AVX512BF16__)
/** The same for bf16 panels; k counts elements and is even, on AMX a multiple of 32. */
void multiply_tile_bf16(int rows, int64_t k, const void* a, const void* b, float* c, Accumulate accumulate, float alpha);
#endif

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_KERNEL_H_
