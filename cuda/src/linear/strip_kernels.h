// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The kernels that write what strip.cpp multiplies: a strip of the weight, and activations with further columns. */
#ifndef QLORA4J_CUDA_LINEAR_STRIP_KERNELS_H_
#define QLORA4J_CUDA_LINEAR_STRIP_KERNELS_H_

#include <cstdint>

#include "dequantize_4bit/dequantize_4bit.h"
#include "linear/branch.h"
#include "linear/packed_tiles.h"
#include "pack/context.h"

namespace q4j::cuda {

/** Eights of elements that a kernel here counts: the next step of its loop must fit 32 bits too. */
constexpr int64_t kMostItems = int64_t{1} << 30;

/** The weight a strip is cut from. */
struct StripWeight {
  Dequantize4Bit quantized; /* 4-bit, canonical; its `output` is not used */
  PackedTiles tiles;        /* or 4-bit, packed */
  bool packed;
  const void* dense; /* or elements of dense_dtype */
  int64_t ld;
  int32_t format;
  int32_t dense_dtype;
  int64_t rows;
  int64_t cols;
};

/**
 * Rows first ... first + count (a packed weight: multiples of 16) of [W | branch | bias | zeros], `width` columns each, a
 * multiple of 8. weight [n, k]; branch b f32 [n, rank]; bias of bias_dtype [n] in `bias_parts` parts.
 */
struct StripRows {
  StripWeight weight;
  BranchFactor b;
  BranchParts parts;
  const void* bias;
  int32_t bias_dtype;
  int32_t bias_parts;
  int64_t first;
  int64_t count;
  int64_t width;
  void* strip; /* bf16 [count, width] */
};
q4j_status fill_strip_rows(const q4j_pack_context& context, const StripRows& arguments);

/**
 * Columns first ... first + count, multiples of 8 (a packed weight: of 64), of [W ; branch ; zeros], `height` rows.
 *   weight [n, k]; branch a f32 [rank, k]
 */
struct StripColumns {
  StripWeight weight;
  BranchFactor a;
  BranchParts parts;
  int64_t first;
  int64_t count;
  int64_t height;
  void* strip; /* bf16 [height, count] */
};
q4j_status fill_strip_columns(const q4j_pack_context& context, const StripColumns& arguments);

/** [x | branch | ones | zeros], `width` columns, a multiple of 8. x bf16 [m, cols]; branch f32 [m, rank]. */
struct WidenedActivations {
  const void* x;
  int64_t ldx;
  int64_t m;
  int64_t cols;
  const float* branch;
  int32_t rank;
  BranchParts parts;
  int32_t ones;
  int64_t width;
  void* output; /* bf16 [m, width] */
};
q4j_status widen_activations(const q4j_pack_context& context, const WidenedActivations& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_STRIP_KERNELS_H_
