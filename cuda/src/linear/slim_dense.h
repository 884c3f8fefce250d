// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Products with a slim f32 factor by way of a dense library product: the inner products of the LoRA branch and the gradients of
 * its factors. In the fast mode the slim factor counts rounded to bf16, so it is written in bf16 first; the library accumulates
 * in f32.
 *
 *   inner      xa = x a^T, dyb = dy b                  f32 [m, rank], rounded to bf16 afterwards
 *   gradient   da += s dyb^T x, db += s dy^T xa        f32
 *
 * Launch contract: the products of product.h with bf16 A, f32 B of a rank that is a multiple of 8, not exact, without dropout
 * (its mask would stand between x and the product); rows of A aligned to 16 bytes, outputs too. slim_dense_takes() decides.
 * Workspace: B in bf16, and the library's scratch.
 */
#ifndef QLORA4J_CUDA_LINEAR_SLIM_DENSE_H_
#define QLORA4J_CUDA_LINEAR_SLIM_DENSE_H_

#include "linear/product.h"

namespace q4j::cuda {

/** From this many rows on: with fewer the kernels of product_2_slim.cu take less than the library's launches. */
constexpr int64_t kSlimDenseRows = 65;

/** Whether this path serves a product of `rows` activations. The pointers may be missing yet, and then count as aligned. */
bool slim_dense_takes(q4j_pack_context* context, const Product& product, int64_t rows);

/** Bytes for a product whose B has `elements` elements. */
int64_t slim_dense_workspace(int64_t elements);

/** C of A in this order and B in that. `workspace` has slim_dense_workspace bytes and is aligned to 64. */
q4j_status slim_dense(q4j_pack_context* context, const Product& product, Order a, Order b, void* workspace);

/** Rounds f32 values to the nearest bf16. `output`: bf16, or f32, which may be the values themselves. */
struct RoundToBf16 {
  const float* values;
  void* output;
  int32_t dtype; /* of the output */
  int64_t n;
};
q4j_status round_to_bf16(const q4j_pack_context& context, const RoundToBf16& arguments);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_SLIM_DENSE_H_
