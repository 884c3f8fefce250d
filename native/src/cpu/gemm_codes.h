// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The product of INT8 codes within the matrix product of gemm.h: rows of A are quantized by quantize_int8_rowwise's rule, the
 * codes of both sides are multiplied and summed exactly, and
 *
 *   value = sum * (absmax(row of A) * absmax(row of W)) * (1 / 127^2)      three f32 multiplications
 *
 * Panels hold units of 32 bits along the contraction, which the kernels broadcast from A and multiply with a vector of B:
 *
 *   AMX      4 codes, TDPBSSD           A [k/64][kTileRows][64]   B [k/4][kTileColumns][4]
 *   VNNI     4 codes, VPDPBUSD          A [k/4][kTileRows][4]     B the same, every code + 128
 *   others   2 codes in 16 bits each, VPMADDWD, VPADDD            A [k/2][kTileRows][2]     B [k/2][kTileColumns][2]
 *
 * VPDPBUSD multiplies unsigned with signed bytes. The 128 that B's codes are too large by is taken off again when the sums are
 * read, as 128 * (sum of A's codes).
 *
 * |code of A| <= 127 and |code of W| <= 128, so up to kMostTerms products fit into an i32. Sums wrap on the way there, which
 * changes nothing. Longer sums are collected in 64 bits, one range of steps after the other.
 */
#ifndef QLORA4J_SRC_CPU_GEMM_CODES_H_
#define QLORA4J_SRC_CPU_GEMM_CODES_H_

#include <cstdint>

#include "gemm_kernel.h"
#include "support/half.h"

namespace q4j::cpu {

#if defined(Q4J_AMX) || defined(__AVX512VNNI__)
constexpr int kCodesPerUnit = 4;
#else
constexpr int kCodesPerUnit = 2;
#endif

#if defined(Q4J_AMX)
constexpr int64_t kCodeGranule = 64;
#else
constexpr int64_t kCodeGranule = kCodesPerUnit;
#endif

/** Bytes of a code in a panel. */
constexpr int64_t kBytesPerCode = 4 / kCodesPerUnit;

constexpr int64_t kMostTerms = 131072;  // 131072 * 127 * 128 < 2^31

/** What the sums of a quantized row are finished with. */
struct CodedRow {
  float absmax;
  int64_t sum;  // of its codes
};

/** Codes of one row, and zeros from k to `padded`. A row with a NaN or an infinity has codes 0 and an absmax that is not
 * finite. */
CodedRow quantize_row(const bf16* x, int64_t k, int64_t padded, int8_t* codes);

/** One panel of A: steps `padded_k` (a multiple of kCodeGranule, zeros included) of `rows` rows of codes, ld apart. */
void pack_codes_a(const int8_t* codes, int64_t ld, int64_t rows, int64_t padded_k, void* panel);

/** Panels of B, stride bytes apart, one after the other: `columns` rows of W's codes, ld apart, k_count steps each. */
void pack_codes_b(const int8_t* codes, int64_t ld, int64_t columns, int64_t k_count, int64_t padded_k, int64_t stride,
                  void* panels);

/** The sums of a tile, modulo 2^32. rows: as in multiply_tile_f32. */
void multiply_tile_codes(int rows, int64_t padded_k, const void* a, const void* b, int32_t* sums, Accumulate accumulate);

/** wide (+)= sums, which are those of at most kMostTerms / 4 products: exact, the 128 of VPDPBUSD included. */
void widen_sums(const int32_t* sums, int rows, int64_t* wide, Accumulate accumulate);

/** values (+)= the products of the codes. w_absmax: of the tile's first column; `columns` of them may be read. */
void scale_sums(const int32_t* sums, const CodedRow* rows, const float* w_absmax, int row_count, int64_t columns, float* values,
                Accumulate accumulate);
void scale_sums(const int64_t* sums, const CodedRow* rows, const float* w_absmax, int row_count, int64_t columns, float* values,
                Accumulate accumulate);

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_CODES_H_
