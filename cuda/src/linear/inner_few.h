// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The inner product of a LoRA branch for a few rows: C = A B of product.h, both factors in the order of the contraction. */
#ifndef QLORA4J_CUDA_LINEAR_INNER_FEW_H_
#define QLORA4J_CUDA_LINEAR_INNER_FEW_H_

#include "linear/product.h"

namespace q4j::cuda {

constexpr int kMostInnerRows = 8;

/** Up to kMostInnerRows rows of bf16 A, without dropout. */
bool inner_few_takes(const Product& product);

q4j_status inner_few(const q4j_pack_context& context, const Product& product);

}  // namespace q4j::cuda

#endif  // QLORA4J_CUDA_LINEAR_INNER_FEW_H_
