// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Products of few rows (64 at most) with a 4-bit weight packed as tiles (pack_weight/packed_layout.h), in bf16, forward and to
 * the input: the weight is read once, as fast as memory gives it, and goes from registers to the tensor cores.
 * docs/kernels/linear.md has the derivation, the counts and the ladder.
 *
 * Launch contract
 *   C = A B as product.h has it: A is bf16 [m, contraction], any alignment (rows aligned to 16 bytes are fast), m from 1 to 64;
 *   B is the weight, Elements::kPackedTiles, in either order; all of Branch and Output. The weight has fewer than 2^31 / 16
 *   tiles.
 * The sum of an element is a tree that its shape alone decides (plan_small: slices of the contraction, shares of warps):
 * the same on every device. How many blocks share the work does not change it.
 *
 * Rungs
 *   1 linear_small_1.cu: a warp per 16 outputs and eight rows, every value looked up and scaled on its own.
 *   2 linear_small_2.h: values from a table of pairs in shared memory, loads far ahead.
 *   3 linear_small_3.cu, forward: rung 2 with a quarter of the codes looked up in registers.
 */
#ifndef QLORA4J_CUDA_LINEAR_SMALL_LINEAR_SMALL_H_
#define QLORA4J_CUDA_LINEAR_SMALL_LINEAR_SMALL_H_

#include <cstdint>

#include "linear/product.h"
#include "pack/context.h"

namespace q4j::cuda {

/** The most rows of A. */
constexpr int64_t kMostSmallRows = 64;

/** How a product is cut. A slot is 64 elements of the contraction. */
struct SmallPlan {
  int32_t rung;
  int32_t splits;      /* slices of the contraction, each with blocks of its own; more than one leaves partial sums */
  int32_t slice_slots; /* slots of a slice; the last may have fewer */
  int32_t chunk_slots; /* slots of A that are in shared memory at a time */
  int32_t share_shift; /* log2 of the warps of a block that share an output */
  int32_t units;       /* groups of outputs that a block makes at a time */
};

/** Whether the kernels take the product; m is not 0. */
bool takes_small(const q4j_pack_context& context, int64_t m, int64_t rows, int64_t cols);

/** `rows` and `cols` of the weight, `b`: kContraction forward, kOuter to the input. */
SmallPlan plan_small(int64_t m, int64_t rows, int64_t cols, Order b, int rung);

/** What the kernels take. */
struct SmallProduct {
  // The weight.
  const uint8_t* codes;
  const void* absmax;
  const float* nested_absmax; /* or NULL: absmax is f32 */
  float nested_offset;
  int32_t nested_shift; /* log2 of the nested block size */
  int32_t block_shift;  /* log2 of the tiles in a row of a block */
  int32_t strips;
  int32_t row_tiles;
  int32_t row_blocks;
  float values[16];
  // The rest of the product.
  const bf16* x;
  int64_t ldx;
  int32_t m;
  Branch branch;
  Output output;
  float* partial; /* f32 [splits, m, outputs] where there are several */
  SmallPlan plan;
};

/** The product's launch. Partial sums are left for sum_parts. */
q4j_status linear_small(const q4j_pack_context& context, const Product& product, Order b, const SmallPlan& plan,
                        float* partial);

q4j_status linear_small_1(const q4j_pack_context& context, const SmallProduct& product, Order b);
q4j_status linear_small_2_forward(const q4j_pack_context& context, const SmallProduct& product);
q4j_status linear_small_2_backward(const q4j_pack_context& context, const SmallProduct& product);
q4j_status linear_small_3_forward(const q4j_pack_context& context, const SmallProduct& product);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_SMALL_LINEAR_SMALL_H_
