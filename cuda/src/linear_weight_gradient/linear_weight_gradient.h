// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * linear_weight_gradient: dw += dy^T x and dbias += column sums of dy. docs/kernels/linear.md has shapes, roundings and ladder.
 *
 * Launch contract
 *   x T[m, k], dy T[m, n], T = f32 or bf16, with row distances; dw f32[n, k], dbias f32[n], both contiguous, added to. Either
 * of dw and dbias may be NULL. dw is a product with sums over m (linear/product.h). dbias: blocks sum columns over parts of the
 * rows, the parts are summed in order.
 *
 * Rungs of dw: 1 linear/product_1.cu, also where activations are f32; 2 linear/product_2_gradient.cu, tensor cores; 3 a
 * library's product (linear/dense_product.h), wherever it takes it, else rung 2. dbias has one.
 */
#ifndef QLORA4J_CUDA_LINEAR_WEIGHT_GRADIENT_H_
#define QLORA4J_CUDA_LINEAR_WEIGHT_GRADIENT_H_

#include <cstdint>

#include "pack/context.h"

namespace q4j::cuda {

struct ColumnSums {
  const void* input; /* [rows, cols] of dtype */
  int64_t rows;
  int64_t cols;
  int64_t ld;
  int32_t dtype;
  int32_t parts;
  int64_t rows_of_part;
  float* partial; /* [parts, cols]; with one part unused */
  float* output;  /* [cols], added to */
};

/** Cuts the rows: fills parts and rows_of_part. */
void cut_rows(ColumnSums* sums);

q4j_status column_sums(const q4j_pack_context& context, const ColumnSums& sums);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_WEIGHT_GRADIENT_H_
