// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Matrix products with few rows of A that are contracted across the stored rows of B: gradients to the input of few rows. B is
 * read once, or once for each group of rows of C (see below), and multiplied as it is decoded (linear_small_backward_kernel.h).
 * gemm.h has the product, linear_small.h the one along the stored rows.
 *
 * Tasks are ranges of columns, for which a thread passes by all stored rows, a few at a time; the sums of a range stay in the
 * second-level cache, and those of a part of it in the first. Where columns alone do not occupy the threads, tasks are rows of
 * C, too.
 *
 * Each element of C is one sum in a fixed order: s times the masked branch, then the rows in order. It depends neither on the
 * threads nor on the other rows of C.
 */
#ifndef QLORA4J_SRC_CPU_LINEAR_SMALL_BACKWARD_H_
#define QLORA4J_SRC_CPU_LINEAR_SMALL_BACKWARD_H_

#include <cstdint>

#include "gemm.h"
#include "thread_pool.h"

namespace q4j::cpu {

/**
 * Whether multiply_small_backward() takes the product and is the faster one: few rows, and B contracted across its stored rows,
 * which are f32 or consist of whole chunks of 64 elements, not of f16.
 */
bool serves_small_backward(const Product& product);

/** Bytes of workspace for a product; 0 where m or the direction rule it out. Reads what multiply_workspace_size() reads, and
 * b.contract_rows. */
int64_t multiply_small_backward_workspace_size(const ThreadPool& pool, const Product& product);

/** Computes the product. workspace: multiply_small_backward_workspace_size bytes, any alignment. */
void multiply_small_backward(ThreadPool& pool, const Product& product, void* workspace);

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_LINEAR_SMALL_BACKWARD_H_
