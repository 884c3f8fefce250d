// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * cross_entropy: softmax cross entropy of rows of logits, with label smoothing and z-loss, loss and gradient in one launch.
 * docs/kernels/cross-entropy.md has the formula.
 *
 * Launch contract
 *   logits   T[m, n] with ldlogits elements between rows, T = f32 or bf16; any alignment
 *   labels   i32[m]: a class, or -100 for a row without loss and gradient. Any other number: the row's loss and gradient are
 *            NaN
 *   loss     f32[m]
 *   dlogits  T[m, n] with lddlogits elements between rows; may be the logits; may be NULL
 *
 * Rungs, both one block per row
 *   1 one element per thread and step, three passes: maximum, sums, gradient. Exponentials of the math library.
 *   2 two passes over vectors of 16 bytes, four of them in a thread's registers. Each thread keeps the largest logit so far
 *     and its sum of exponentials of the distance to it, and scales the sum when a larger one comes. The second pass starts
 *     with what is in registers (16,384 bf16 of 512 threads) and reads the rest of the row from L2. Rows may start anywhere:
 *     the elements before the first and behind the last whole vector are taken one by one.
 *
 * Rung 2's exponentials are powers of two by one instruction, 2^-22 relative, of the distance times log2(e), which is rounded:
 * 2^-24 per unit of distance. For a term e^-d that is at most 0.37 * 2^-24 of the largest term, whose exponential is 1. The
 * tolerances of loss and gradient are 16 roundoffs (2^-24) and more.
 */
#ifndef QLORA4J_CUDA_CROSS_ENTROPY_H_
#define QLORA4J_CUDA_CROSS_ENTROPY_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

struct CrossEntropy {
  const void* logits;
  const int32_t* labels;
  float* loss;
  void* dlogits; /* or NULL */
  int64_t m;
  int64_t ldlogits;
  int64_t lddlogits;
  int32_t n;
  int32_t dtype;
  float smoothing;
  float z_loss;
  float scale;
};

q4j_status cross_entropy_1(const q4j_pack_context& context, const CrossEntropy& arguments);
q4j_status cross_entropy_2(const q4j_pack_context& context, const CrossEntropy& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_CROSS_ENTROPY_H_
