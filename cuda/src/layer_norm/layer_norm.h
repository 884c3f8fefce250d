// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * layer_norm: LayerNorm with a residual addition in front, and its gradients. docs/kernels/layer-norm.md has the formulas.
 *
 * Launch contract
 *   x, residual, sum, y, u, dy, dresidual, dx   T[m, n], T = f32 or bf16, contiguous; any alignment (16 bytes and whole vectors
 *                                               per row are fast)
 *   weight, bias    f32 or bf16 [n], one type
 *   mean, rstd      f32[m]
 *   dweight, dbias  f32[n], added to, through `partial` f32[RowChunks(m).count, n per gradient wanted] (64-byte aligned)
 * sum may be x or residual, dx may be dresidual; residual, bias, sum, mean and rstd (of the forward), dresidual, dweight and
 * dbias may be NULL.
 *
 * The mean is an f32 sum, off by a few roundoffs of itself, which is much where the mean is large against the deviation. The
 * pass over u - mean therefore sums the deviations too: what they leave, `rest`, corrects mean, deviations and variance (Chan,
 * Golub, LeVeque 1983).
 *
 * Rungs: as those of rms_norm (rms_norm/rms_norm.h), with one sum per column for each gradient.
 */
#ifndef QLORA4J_CUDA_LAYER_NORM_H_
#define QLORA4J_CUDA_LAYER_NORM_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

struct LayerNormForward {
  const void* x;
  const void* residual; /* or NULL */
  const void* weight;
  const void* bias; /* or NULL */
  void* sum;        /* or NULL */
  void* y;
  float* mean; /* or NULL */
  float* rstd; /* or NULL */
  int64_t m;
  int64_t n;
  float eps;
  int32_t dtype;
  int32_t row_threads; /* rung 2 */
  bool weight_bf16;
};

struct LayerNormBackward {
  const void* u;
  const void* weight;
  const float* mean;
  const float* rstd;
  const void* dy;
  const void* dresidual; /* or NULL */
  void* dx;
  float* weight_partial; /* sums of chunk c at c * partial_step; or NULL */
  float* bias_partial;   /* the same; or NULL */
  int64_t partial_step;
  int64_t m;
  int64_t n;
  int64_t chunk_rows; /* rows whose sums are one row of the partial sums; without them, rows that a block takes at once */
  int32_t dtype;
  int32_t row_threads; /* rung 2 */
  bool weight_bf16;

  bool has_sums() const { return weight_partial != nullptr || bias_partial != nullptr; }
};

q4j_status layer_norm_forward_1(const q4j_pack_context& context, const LayerNormForward& arguments);
q4j_status layer_norm_backward_1(const q4j_pack_context& context, const LayerNormBackward& arguments);
/** The partial sums alone. */
q4j_status layer_norm_sums_1(const q4j_pack_context& context, const LayerNormBackward& arguments);

q4j_status layer_norm_forward_2(const q4j_pack_context& context, const LayerNormForward& arguments);
q4j_status layer_norm_backward_2(const q4j_pack_context& context, const LayerNormBackward& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LAYER_NORM_H_
