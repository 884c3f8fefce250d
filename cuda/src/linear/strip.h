// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Linear layers of many rows by way of a dense library product: the weight is dequantized to bf16, all of it where 256
 * MiB hold it, else a strip at a time. Everything but the residual joins the product as further columns, so base, branch and
 * bias are one product with one rounding:
 *
 *   forward    y  = [x | xa parts | 1 ... 1] * [W | s b parts | bias parts]^T + residual     strips are rows of W
 *   backward   dx = [dy | dyb parts] * [W ; s a parts] (+ dx)                                strips are columns of W
 *
 * A factor that must not be rounded below f32 is a sum of bf16 parts (each takes the next 8 bits): with Q4J_LORA_FAST the
 * factor xa is exact in one part, and s b in one when s is a power of two, else in two (16 bits); with Q4J_LORA_F32 three of
 * the nine products of parts are kept, which leaves out 2^-16 of the branch, far below the rounding of y. bias takes one part
 * where it is bf16, three where it is f32.
 *
 * Launch contract: m, n, k > 0; bf16 activations; y, residual and dx aligned to 16 bytes with leading dimensions that are
 * multiples of 8, as `n` (forward) and `k` (backward) are; backward without dropout, whose mask would have to stand between
 * branch and sum. strip_takes() decides. Workspace: the widened activations, a strip, a copy of what is added where it lies in
 * the output itself, and the library's scratch.
 */
#ifndef QLORA4J_CUDA_LINEAR_STRIP_H_
#define QLORA4J_CUDA_LINEAR_STRIP_H_

#include <cstdint>

#include "pack/context.h"
#include "qlora4j/operators.h"

namespace q4j::cuda {

/** Opens the library of dense products the first time; false where this machine lacks it. */
bool strip_available(q4j_pack_context* context);

/** Whether this path serves a call: its shapes, types and alignment. A NULL pointer is taken for an aligned one. */
bool strip_takes(const q4j_linear_forward_params& params);
bool strip_takes(const q4j_linear_backward_input_params& params);

int64_t strip_workspace(const q4j_linear_forward_params& params);
int64_t strip_workspace(const q4j_linear_backward_input_params& params);

/** y; xa has been computed. `workspace` has strip_workspace bytes and is aligned to 64. */
q4j_status strip_forward(q4j_pack_context* context, const q4j_linear_forward_params& params, void* workspace);

/** dx; dyb has been computed. */
q4j_status strip_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params& params, void* workspace);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_STRIP_H_
