// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * linear_forward and linear_backward_input: the products of product.h, put together. docs/kernels/linear.md has shapes,
 * roundings, layout and ladder.
 *
 *   forward    1. xa = dropout(x) a^T, rounded to bf16 in the fast mode         slim
 *              2. y = s xa b^T, then + x W^T, then + bias + residual, rounded   the path that dispatch.cpp chooses
 *   backward   1. dyb = dy b                                                    slim
 *              2. dx = s mask(dyb a), then + dy W, then + dx where accumulated
 * Without y or dx only the first product runs, without a branch only the second. Neither allocates nor waits; both may be
 * captured in a graph.
 *
 * Rungs
 *   1 product_1.cu: f32 arithmetic on values read one by one. Runs always where activations are f32.
 *   2 product_2.h and product_2_slim.cu: tensor cores, where activations are bf16.
 *   3 to 5 of dispatch.h: their slim products are inner_few.h for a few rows, and slim_dense.h where it takes them.
 * y with an INT8 weight and bf16 activations is a product of codes: int8_forward.h.
 */
#ifndef QLORA4J_CUDA_LINEAR_LINEAR_H_
#define QLORA4J_CUDA_LINEAR_LINEAR_H_

#include "linear/branch.h"
#include "linear/dispatch.h"

namespace q4j::cuda {

/** a, b, xa or dyb: f32, contiguous. */
inline Operand lora_operand(const void* data, int64_t rows, int64_t cols, bool exact) {
  Operand operand = dense_operand(data, Q4J_F32, rows, cols, cols);
  operand.rounds = !exact;
  return operand;
}

/** A weight as weight_operand takes it: canonical, or packed as tiles. An error where packed memory is not aligned. */
q4j_status readable_weight(const q4j_weight& weight, q4j_weight* canonical);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_LINEAR_H_
