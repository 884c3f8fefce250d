// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * y = x W^T + bias + s xa b^T + residual for an INT8 weight and bf16 activations: LLM.int8 without outliers. Every row of x is
 * quantized, the codes are multiplied, and the exact sum is scaled in f32 by absmax(x row) * absmax(W row) and 1 / 127^2.
 *
 * Launch contract
 *   x         bf16 [m, k], rows ldx apart; any alignment (16 bytes, also of every row, is fast)
 *   w         i8 [n, k], contiguous; any alignment (16 bytes, also of every row, is fast)
 *   w_absmax  f32 [n]
 *   xa, b     f32 [m, rank], [n, rank]; rank 0: no branch. `rounds`: both are used as bf16 (xa holds bf16 values already)
 *   bias      f32 or bf16 [n], or NULL
 *   residual  bf16 [m, n], rows ldr apart, or NULL; may be y
 *   y         bf16 [m, n], rows ldy apart; any alignment (4 bytes, also of every row, is fast)
 *   workspace int8_forward_workspace() bytes, aligned to 64: the codes of x, rows padded with zeros to a multiple of 16, and
 *             the absmax of its rows
 * Terms are added in this order: product, branch, bias, residual; rounded to bf16 once.
 *
 * Rungs (after one kernel that quantizes x)
 *   1 one thread per element of y, sums in 64 bits. Also runs, whatever was chosen, where k is so large (above 131072) that a
 *     sum might leave 32 bits: |code of x| <= 127, |code of W| <= 128.
 *   2 tensor cores, m16n8k32. See int8_forward_2.cu.
 */
#ifndef QLORA4J_CUDA_LINEAR_INT8_FORWARD_H_
#define QLORA4J_CUDA_LINEAR_INT8_FORWARD_H_

#include <cstdint>

#include "half.h"
#include "pack/context.h"
#include "qlora4j/operators.h"
#include "support/device.h"

namespace q4j::cuda {

struct Int8Forward {
  const bf16* x;
  const uint8_t* w;
  const float* w_absmax;
  const float* xa;
  const float* b;
  const void* bias;
  const bf16* residual;
  bf16* y;
  uint8_t* x_codes; /* workspace, like the two below */
  float* x_absmax;
  int64_t m;
  int64_t n;
  int64_t k;
  int64_t ldx;
  int64_t ldr;
  int64_t ldy;
  int64_t ld_codes;
  int32_t rank;
  float s;
  int32_t bias_dtype;
  bool rounds;
};

/** Whether the codes of x and W are multiplied, rather than their values. */
inline bool multiplies_codes(const q4j_linear_forward_params& params) {
  return params.weight->format == Q4J_WEIGHT_INT8 && params.dtype == Q4J_BF16;
}

int64_t int8_forward_workspace(const q4j_linear_forward_params& params);

/** y; xa has been computed. `workspace` has int8_forward_workspace bytes. */
q4j_status int8_forward(q4j_pack_context* context, const q4j_linear_forward_params& params, void* workspace);

q4j_status int8_forward_1(const q4j_pack_context& context, const Int8Forward& arguments);
q4j_status int8_forward_2(const q4j_pack_context& context, const Int8Forward& arguments);

/** The sum of products of codes as a value: the ABI's order of operations. */
Q4J_DEVICE float product_of_codes(float sum, float x_absmax, float w_absmax) {
  return multiply(multiply(sum, multiply(x_absmax, w_absmax)), 1.0f / (127.0f * 127.0f));
}

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_INT8_FORWARD_H_
