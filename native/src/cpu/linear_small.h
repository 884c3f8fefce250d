// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Matrix products with few rows of A: decoding and short prompts. They are bound by reading B, so B is read once, from front to
 * back, and multiplied as it is decoded; nothing of it is written anywhere (linear_small_kernel.h). gemm.h has the product.
 *
 * A is rearranged once to the order in which the kernel decodes. Tasks are ranges of columns of C, which are rows of the stored
 * weight.
 *
 * Each element of C is one sum in a fixed order: the branch, then the steps in order, kLanes partial sums (times the reader's
 * sets, where one or two rows take several) that are added at the end. It depends neither on the threads nor, from three rows
 * on, on the other rows. The order differs from that of multiply(). Products of INT8 codes are exact sums here, too; what they
 * are multiplied with and when the branch joins is as in gemm_codes.h.
 */
#ifndef QLORA4J_SRC_CPU_LINEAR_SMALL_H_
#define QLORA4J_SRC_CPU_LINEAR_SMALL_H_

#include <cstdint>

#include "gemm.h"
#include "thread_pool.h"

namespace q4j::cpu {

/**
 * Whether multiply_small() takes the product and is the faster one: few rows, B contracted along its stored rows, which consist
 * of whole chunks of 64 elements, and no dropout.
 */
bool serves_small(const Product& product);

/** Bytes of workspace for a product; 0 where m, k or the direction rule it out. Reads what multiply_workspace_size() reads, and
 * b.contract_rows. */
int64_t multiply_small_workspace_size(const ThreadPool& pool, const Product& product);

/** Computes the product. workspace: multiply_small_workspace_size bytes, any alignment. */
void multiply_small(ThreadPool& pool, const Product& product, void* workspace);

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_LINEAR_SMALL_H_
