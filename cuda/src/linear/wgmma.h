// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Linear layers of many rows on Hopper in one kernel: W goes from its packed 4-bit layout through registers straight into
 * wgmma's operand A, so a dequantized weight is never written anywhere. Computed is y^T = W x^T (and dx^T = W^T dy^T), so that
 * a dequantized fragment serves 256 rows of x.
 *
 * A block computes 128 columns of y for 256 rows: two warpgroups of 64 columns each, which share the x tiles, and one that only
 * fetches them by TMA, four stages of [256 rows, 64 columns] ahead. The branch comes first, as further tiles of the contraction
 * ([xa parts] against [b parts], see strip.h for the parts); the sums are then multiplied by s (in the backward: masked) and
 * the base is added to them in the same registers.
 *
 * A warp loads the 16 x 64 tile it multiplies next, 512 contiguous bytes, a stage ahead into registers. In the backward a
 * warpgroup's 64 rows are 64 columns of W, so its four warps read the four k-steps of the same tiles, and every 8 x 8 fragment
 * is transposed in registers (movmatrix).
 *
 * Launch contract: sm_90a; a 4-bit weight in the packed tile layout; bf16; x and y (dy and dx) aligned to 16 bytes with leading
 * dimensions that are multiples of 8. Workspace: the branch's parts in bf16, [m, 64 * ceil(parts * rank / 64)].
 *
 * Not selected: it has not run on a GPU. Q4J_CUDA_RUNGS chooses it.
 */
#ifndef QLORA4J_CUDA_LINEAR_WGMMA_H_
#define QLORA4J_CUDA_LINEAR_WGMMA_H_

#include <cstdint>

#include "pack/context.h"
#include "qlora4j/operators.h"

namespace q4j::cuda {

/** Whether this path serves a call: device, layout, types and alignment. A NULL pointer is taken for an aligned one. */
bool wgmma_takes(const q4j_pack_context& context, const q4j_linear_forward_params& params);
bool wgmma_takes(const q4j_pack_context& context, const q4j_linear_backward_input_params& params);

int64_t wgmma_workspace(const q4j_linear_forward_params& params);
int64_t wgmma_workspace(const q4j_linear_backward_input_params& params);

/** y; xa has been computed. */
q4j_status wgmma_forward(q4j_pack_context* context, const q4j_linear_forward_params& params, void* workspace);

/** dx; dyb has been computed. */
q4j_status wgmma_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params& params, void* workspace);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_WGMMA_H_
