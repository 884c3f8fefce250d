// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The arguments of the kernels in wgmma_kernels.cu. */
#ifndef QLORA4J_CUDA_LINEAR_WGMMA_KERNELS_H_
#define QLORA4J_CUDA_LINEAR_WGMMA_KERNELS_H_

#include <cstdint>

#include "linear/branch.h"
#include "linear/packed_tiles.h"
#include "pack/context.h"
#include "support/dropout.h"
#include "support/tensor_map.h"

namespace q4j::cuda {

/** Rows of x that a block computes, and columns of y. */
constexpr int kWgmmaRows = 256;
constexpr int kWgmmaColumns = 128;

struct WgmmaLinear {
  TensorMap activations; /* x [m, k] or dy [m, n] */
  TensorMap branch;      /* bf16 parts of xa or dyb [m, 64 * branch_tiles] */
  PackedTiles weight;
  BranchFactor factor; /* b [n, rank] or a [rank, k] */
  BranchParts parts;
  DropoutMask mask;     /* of the branch in the backward */
  int32_t branch_tiles; /* 0: no branch */
  int32_t base_tiles;   /* of 64 along the contraction */
  int64_t m;
  int64_t columns; /* of y or dx */
  const void* bias;
  int32_t bias_dtype;
  int32_t reserved;
  const void* residual; /* bf16, or NULL; dx itself where it is added to */
  int64_t ldr;
  void* out; /* bf16 [m, columns] */
  int64_t ldo;
};

q4j_status launch_wgmma_forward(const q4j_pack_context& context, int32_t format, const WgmmaLinear& arguments);
q4j_status launch_wgmma_backward(const q4j_pack_context& context, int32_t format, const WgmmaLinear& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_WGMMA_KERNELS_H_
