// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * activation: SiLU and GELU (erf or tanh), plain or gating, and their gradients. docs/kernels/activation.md has the formulas.
 *
 * Launch contract
 *   x, up, dx, dup   T[m, n] with ldx, ldup, lddx, lddup elements between rows, T = f32 or bf16; any alignment
 *   y, dy            T[m, n], contiguous; any alignment
 * y may be x where that is contiguous; dx may be x, dup may be up or dy. up is NULL without a gate, and dup then unused.
 *
 * Rungs
 *   1 one thread per element. Also runs, whatever was chosen, where rows do not start on multiples of 16 bytes or are not
 *     whole vectors.
 *   2 vectors of 16 bytes, two of every array in flight per thread. Arrays without gaps between rows count as one long row,
 *     whose length may then be any.
 */
#ifndef QLORA4J_CUDA_ACTIVATION_H_
#define QLORA4J_CUDA_ACTIVATION_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

struct ActivationForward {
  const void* x;
  const void* up; /* or NULL */
  void* y;
  int64_t m;
  int64_t n;
  int64_t ldx;
  int64_t ldup;
  int32_t dtype;
  int32_t activation;
};

struct ActivationBackward {
  const void* x;
  const void* up; /* or NULL */
  const void* dy;
  void* dx;
  void* dup; /* where there is `up` */
  int64_t m;
  int64_t n;
  int64_t ldx;
  int64_t ldup;
  int64_t lddx;
  int64_t lddup;
  int32_t dtype;
  int32_t activation;
};

q4j_status activation_forward_1(const q4j_pack_context& context, const ActivationForward& arguments);
q4j_status activation_backward_1(const q4j_pack_context& context, const ActivationBackward& arguments);
q4j_status activation_forward_2(const q4j_pack_context& context, const ActivationForward& arguments);
q4j_status activation_backward_2(const q4j_pack_context& context, const ActivationBackward& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_ACTIVATION_H_
