// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * rms_norm: RMSNorm with a residual addition in front, and its gradients. docs/kernels/rms-norm.md has formulas and rounding.
 *
 * Launch contract
 *   x, residual, sum, y, u, dy, dresidual, dx   T[m, n], T = f32 or bf16, contiguous; any alignment (16 bytes and whole vectors
 *                                               per row are fast)
 *   weight          f32 or bf16 [n]
 *   rstd            f32[m]
 *   dweight         f32[n], added to, through `partial` f32[RowChunks(m).count, n] (64-byte aligned)
 * sum may be x or residual, dx may be dresidual; residual, sum, rstd (of the forward), dresidual and dweight may be NULL.
 *
 * Rungs
 *   1 one block per row, one element per thread and step; every pass over a row reads it again. The gradient of the weight is a
 *     launch of its own that reads u and dy once more. Also runs, whatever was chosen, where rows are not whole vectors of 16
 *     bytes or too long for the other rung's registers.
 *   2 a row is read once, in 16-byte loads, and stays in registers, two vectors of each array per thread: rows of up to 32
 *     KiB. Rows of up to 32 threads share a block. With a gradient of the weight (rows of up to 16 KiB) a block walks a chunk
 *     of rows and keeps its columns' sums in registers too, so that u and dy are read once for both results; longer rows
 *     take rung 1's launch for it.
 */
#ifndef QLORA4J_CUDA_RMS_NORM_H_
#define QLORA4J_CUDA_RMS_NORM_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

struct RmsNormForward {
  const void* x;
  const void* residual; /* or NULL */
  const void* weight;
  void* sum; /* or NULL */
  void* y;
  float* rstd; /* or NULL */
  int64_t m;
  int64_t n;
  float eps;
  int32_t dtype;
  int32_t row_threads; /* rung 2 */
  bool unit_offset;
  bool weight_bf16;
};

struct RmsNormBackward {
  const void* u;
  const void* weight;
  const float* rstd;
  const void* dy;
  const void* dresidual; /* or NULL */
  void* dx;
  float* partial; /* or NULL */
  int64_t m;
  int64_t n;
  int64_t chunk_rows; /* rows whose sums are one row of `partial`; without it, rows that a block takes at once */
  int32_t dtype;
  int32_t row_threads; /* rung 2 */
  bool unit_offset;
  bool weight_bf16;
};

q4j_status rms_norm_forward_1(const q4j_pack_context& context, const RmsNormForward& arguments);
q4j_status rms_norm_backward_1(const q4j_pack_context& context, const RmsNormBackward& arguments);
/** The partial sums alone. */
q4j_status rms_norm_weight_sums_1(const q4j_pack_context& context, const RmsNormBackward& arguments);

q4j_status rms_norm_forward_2(const q4j_pack_context& context, const RmsNormForward& arguments);
q4j_status rms_norm_backward_2(const q4j_pack_context& context, const RmsNormBackward& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_RMS_NORM_H_
