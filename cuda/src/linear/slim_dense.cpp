// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear/slim_dense.h"

#include "error.h"
#include "linear/branch.h"
#include "linear/dense_product.h"
#include "linear/strip.h"
#include "quant.h"

namespace q4j::cuda {

namespace {

constexpr int64_t kAlignment = 64;

int64_t rounded_bytes(int64_t elements) { return ceil_div(elements * 2, kAlignment) * kAlignment; }

/** Of f32, as is_wide is of bf16. */
bool is_wide_f32(const void* pointer, int64_t ld) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && ld % 4 == 0; }

}  // namespace

bool slim_dense_takes(q4j_pack_context* context, const Product& p, int64_t rows) {
  return rows >= kSlimDenseRows && !p.exact && !p.a_mask.on && p.a.elements == Elements::kBf16 && is_wide(p.a.data, p.a.ld) &&
         p.n % 8 == 0 && is_wide_f32(p.output.data, p.output.ld) && p.b.cols % 8 == 0 && strip_available(context);
}

int64_t slim_dense_workspace(int64_t elements) { return rounded_bytes(elements) + DenseMultiplier::kScratchBytes; }

q4j_status slim_dense(q4j_pack_context* context, const Product& p, Order a, Order b, void* workspace) {
  const int64_t elements = p.b.rows * p.b.cols;
  Q4J_RETURN_IF_ERROR(round_to_bf16(*context, {static_cast<const float*>(p.b.data), workspace, Q4J_BF16, elements}));
  DenseProduct product = {};
  product.k = p.k;
  product.scale = p.output.scale;
  product.c = p.output.added;
  product.ldc = p.output.added_ld;
  product.d = p.output.data;
  product.ldd = p.output.ld;
  product.dtype = Q4J_F32;
  if (p.output.transposed) {
    // Rows of the output are columns of C: C^T = B^T A^T.
    product.m = p.n;
    product.n = p.m;
    product.a = workspace;
    product.lda = p.b.cols;
    product.a_transposed = b == Order::kOuter;
    product.b = p.a.data;
    product.ldb = p.a.ld;
    product.b_transposed = a == Order::kContraction;
  } else {
    product.m = p.m;
    product.n = p.n;
    product.a = p.a.data;
    product.lda = p.a.ld;
    product.a_transposed = a == Order::kOuter;
    product.b = workspace;
    product.ldb = p.b.cols;
    product.b_transposed = b == Order::kContraction;
  }
  void* scratch = DenseMultiplier::scratch_in(static_cast<unsigned char*>(workspace) + rounded_bytes(elements));
  Q4J_RETURN_IF_ERROR(context->dense->multiply(*context, product, scratch));
  if (!p.output.rounds) return Q4J_OK;
  return round_to_bf16(*context, {static_cast<const float*>(p.output.data), p.output.data, Q4J_F32, p.m * p.n});
}

}  // namespace q4j::cuda
