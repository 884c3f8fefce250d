// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "gemm_codes.h"

#include <algorithm>
#include <cstring>

#include "gemm_pack.h"
#include "intrinsics.h"
#include "rowwise_codes.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

// Sums of the codes that VPDPBUSD reads as unsigned are too large by this for every code of the other side.
#if defined(__AVX512VNNI__) && !defined(Q4J_AMX)
constexpr int kOffset = 128;
#else
constexpr int kOffset = 0;
#endif

constexpr int64_t kCodesPerVector = kLanes * kCodesPerUnit;

/** kLanes units from the first `count` codes, zeros beyond. Their 32-bit lanes travel as f32, which nothing computes with. */
Vec load_units(const int8_t* p, int64_t count) {
#if defined(Q4J_AMX) || defined(__AVX512VNNI__)
  const __mmask64 lanes = count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
  return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi8(lanes, p))};
#elif defined(__AVX512F__)
  const __mmask32 lanes = count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
  return {_mm512_castsi512_ps(_mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(lanes, p)))};
#else
  __m128i bytes;
  if (count >= 16) {
    bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  } else {
    alignas(16) int8_t buffer[16] = {};
    std::memcpy(buffer, p, static_cast<size_t>(count));
    bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
  }
  return {_mm256_castsi256_ps(_mm256_cvtepi8_epi16(bytes))};
#endif
}

/** The same with kOffset added to every code, those beyond `count` included: A has zeros there. */
Vec load_units_b(const int8_t* p, int64_t count) {
  const Vec units = load_units(p, count);
#if defined(__AVX512VNNI__) && !defined(Q4J_AMX)
  return {_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(units.v), _mm512_set1_epi8(-128)))};
#else
  return units;
#endif
}

/** A panel of units, [k / kCodesPerUnit][Width]. `rows` of Width rows are there, k_count of padded_k steps. */
template <int Width, class Load>
void pack_panel(const int8_t* codes, int64_t ld, int64_t rows, int64_t k_count, int64_t padded_k, const Load load_row,
                float* panel) {
  for (int part = 0; part < Width; part += kLanes) {
    const Mask lanes = first_lanes(Width - part);
    const int64_t left = rows - part;
    for (int64_t k = 0; k < padded_k; k += kCodesPerVector) {
      const int8_t* p = codes + part * ld + k;
      float* to = panel + k / kCodesPerUnit * Width + part;
      const int64_t units = (padded_k - k) / kCodesPerUnit;
      Vec t[kLanes];
      if (left >= kLanes && k_count - k >= kCodesPerVector) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) t[i] = load_row(p + i * ld, kCodesPerVector);
      } else {
        for (int i = 0; i < kLanes; ++i) t[i] = i < left && k < k_count ? load_row(p + i * ld, k_count - k) : zero();
      }
      transpose(t);
      if (units >= kLanes && Width - part >= kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + i * Width, t[i]);
      } else {
        for (int i = 0; i < kLanes && i < units; ++i) store(to + i * Width, t[i], lanes);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------- kernels

#if !defined(Q4J_AMX)

#if defined(__AVX512F__)
using Sums = __m512i;
Sums load_sums(const int32_t* p) { return _mm512_loadu_si512(p); }
void store_sums(int32_t* p, Sums sums) { _mm512_storeu_si512(p, sums); }
Sums no_sums() { return _mm512_setzero_si512(); }
Sums broadcast_unit(uint32_t unit) { return _mm512_set1_epi32(static_cast<int>(unit)); }
Sums multiply_add(Sums sums, Sums b, Sums a) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(sums, b, a);
#else
  return _mm512_add_epi32(sums, _mm512_madd_epi16(b, a));
#endif
}
#else
using Sums = __m256i;
Sums load_sums(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
void store_sums(int32_t* p, Sums sums) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), sums); }
Sums no_sums() { return _mm256_setzero_si256(); }
Sums broadcast_unit(uint32_t unit) { return _mm256_set1_epi32(static_cast<int>(unit)); }
Sums multiply_add(Sums sums, Sums b, Sums a) { return _mm256_add_epi32(sums, _mm256_madd_epi16(b, a)); }
#endif

using Kernel = void (*)(int64_t, const uint32_t*, const int32_t*, int32_t*, Accumulate);

template <int Rows>
void kernel(int64_t units, const uint32_t* __restrict a, const int32_t* __restrict b, int32_t* __restrict c,
            Accumulate accumulate) {
  Sums sums[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    const bool add = accumulate == Accumulate::kYes;
    sums[i][0] = add ? load_sums(c + i * kTileColumns) : no_sums();
    sums[i][1] = add ? load_sums(c + i * kTileColumns + kLanes) : no_sums();
  }
  for (int64_t unit = 0; unit < units; ++unit) {
    const Sums b0 = load_sums(b);
    const Sums b1 = load_sums(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Sums a_i = broadcast_unit(a[i]);
      sums[i][0] = multiply_add(sums[i][0], b0, a_i);
      sums[i][1] = multiply_add(sums[i][1], b1, a_i);
    }
    a += kTileRows;
    b += kTileColumns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    store_sums(c + i * kTileColumns, sums[i][0]);
    store_sums(c + i * kTileColumns + kLanes, sums[i][1]);
  }
}

#if defined(__AVX512F__)
constexpr Kernel kKernels[kKernelRows] = {
    kernel<1>, kernel<2>, kernel<3>, kernel<4>,  kernel<5>,  kernel<6>,
    kernel<7>, kernel<8>, kernel<9>, kernel<10>, kernel<11>, kernel<12>,
};
#else
constexpr Kernel kKernels[kKernelRows] = {kernel<1>, kernel<2>, kernel<3>, kernel<4>, kernel<5>, kernel<6>};
#endif

#endif  // !Q4J_AMX

Vec value_of(Vec sum, float x_absmax, Vec w_absmax) {
  return sum * (broadcast(x_absmax) * w_absmax) * broadcast(1.0f / (127.0f * 127.0f));
}

}  // namespace

CodedRow quantize_row(const bf16* x, int64_t k, int64_t padded, int8_t* codes) {
  CodedRow row = {row_absmax(x, k), 0};
  encode_row(x, k, row.absmax, codes);
  std::memset(codes + k, 0, static_cast<size_t>(padded - k));
#if defined(__AVX512VNNI__) && !defined(Q4J_AMX)
  static_assert(kCodeGranule == 4, "a sum takes four codes");
  constexpr int64_t kPiece = int64_t{1} << 20;  // fits 32 bits
  for (int64_t piece = 0; piece < padded; piece += kPiece) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = piece; i < std::min(piece + kPiece, padded); i += 64) {
      const __m512i units = _mm512_castps_si512(load_units(codes + i, padded - i).v);
      sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), units);
    }
    row.sum += _mm512_reduce_add_epi32(sum);
  }
#endif
  return row;
}

void pack_codes_a(const int8_t* codes, int64_t ld, int64_t rows, int64_t padded_k, void* panel) {
#if defined(Q4J_AMX)
  auto* to = static_cast<int8_t*>(panel);
  for (int64_t k = 0; k < padded_k; k += 64, to += 64 * kTileRows) {
    for (int64_t row = 0; row < kTileRows; ++row) {
      if (row < rows) {
        std::memcpy(to + row * 64, codes + row * ld + k, 64);
      } else {
        std::memset(to + row * 64, 0, 64);
      }
    }
  }
#else
  pack_panel<kTileRows>(codes, ld, rows, padded_k, padded_k, load_units, static_cast<float*>(panel));
#endif
}

void pack_codes_b(const int8_t* codes, int64_t ld, int64_t columns, int64_t k_count, int64_t padded_k, int64_t stride,
                  void* panels) {
  auto* panel = static_cast<char*>(panels);
  for (int64_t column = 0; column < columns; column += kTileColumns, panel += stride) {
    pack_panel<kTileColumns>(codes + column * ld, ld, columns - column, k_count, padded_k, load_units_b,
                             reinterpret_cast<float*>(panel));
  }
}

#if defined(Q4J_AMX)
void multiply_tile_codes(int, int64_t padded_k, const void* a, const void* b, int32_t* sums, Accumulate accumulate) {
  multiply_amx<true>(padded_k / 64, a, b, sums, accumulate);
}
#else
void multiply_tile_codes(int rows, int64_t padded_k, const void* a, const void* b, int32_t* sums, Accumulate accumulate) {
  kKernels[rows - 1](padded_k / kCodesPerUnit, static_cast<const uint32_t*>(a), static_cast<const int32_t*>(b), sums,
                     accumulate);
}
#endif

void widen_sums(const int32_t* sums, int rows, int64_t* wide, Accumulate accumulate) {
  for (int i = 0; i < rows * kTileColumns; ++i) {
    int32_t sum;
    std::memcpy(&sum, sums + i, sizeof sum);
    wide[i] = (accumulate == Accumulate::kYes ? wide[i] : 0) + sum;
  }
}

void scale_sums(const int32_t* sums, const CodedRow* rows, const float* w_absmax, int row_count, int64_t columns, float* values,
                Accumulate accumulate) {
  for (int part = 0; part < kTileColumns && part < columns; part += kLanes) {
    const Vec w = load(w_absmax + part, first_lanes(columns - part));
    for (int i = 0; i < row_count; ++i) {
      // Modulo 2^32, like the sums.
      const int offset = static_cast<int>(static_cast<uint32_t>(rows[i].sum * kOffset));
      const int32_t* p = sums + i * kTileColumns + part;
#if defined(__AVX512F__)
      const Vec sum = {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(offset)))};
#else
      const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
      const Vec sum = {_mm256_cvtepi32_ps(_mm256_sub_epi32(loaded, _mm256_set1_epi32(offset)))};
#endif
      float* to = values + i * kTileColumns + part;
      const Vec value = value_of(sum, rows[i].absmax, w);
      store(to, accumulate == Accumulate::kYes ? load(to) + value : value);
    }
  }
}

void scale_sums(const int64_t* sums, const CodedRow* rows, const float* w_absmax, int row_count, int64_t columns, float* values,
                Accumulate accumulate) {
  for (int part = 0; part < kTileColumns && part < columns; part += kLanes) {
    const Vec w = load(w_absmax + part, first_lanes(columns - part));
    for (int i = 0; i < row_count; ++i) {
      float rounded[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        rounded[lane] = static_cast<float>(sums[i * kTileColumns + part + lane] - rows[i].sum * kOffset);
      }
      float* to = values + i * kTileColumns + part;
      const Vec value = value_of(load(rounded), rows[i].absmax, w);
      store(to, accumulate == Accumulate::kYes ? load(to) + value : value);
    }
  }
}

}  // namespace q4j::cpu
