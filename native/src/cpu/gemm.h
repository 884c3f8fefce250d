// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * The matrix product behind the linear operators:
 *
 *   C[m, n] = epilogue( sum over k of A[m, k] B[k, n]  +  s * mask * sum over r of P[m, r] Q[r, n] )
 *
 * The second sum is the LoRA branch. A tile computes it first, is scaled and masked in place, and then goes on to collect the
 * first sum in the same f32 accumulators, so the branch costs its own arithmetic and no pass over C.
 *
 * Operands are packed into panels (gemm_pack.h) that the kernels (gemm_kernel.h) read front to back; a quantized weight is
 * dequantized on the way into its panel and exists in no other form. Or the codes of an INT8 weight are multiplied with those
 * of A's rows (gemm_codes.h); the branch then joins their product after its last step. A is packed a chunk of rows at a time,
 * all of its steps; B a panel range per task and step range, or once for all tasks where that is small. Tasks are ranges of
 * columns, and of rows where columns alone do not occupy the threads.
 *
 * Each element of C is one sum in a fixed order: the branch, then the steps in order. It depends neither on the threads nor on
 * the other rows.
 */
#ifndef QLORA4J_SRC_CPU_GEMM_H_
#define QLORA4J_SRC_CPU_GEMM_H_

#include <cstdint>

#include "qlora4j/types.h"
#include "thread_pool.h"

namespace q4j::cpu {

/**
 * One operand: a stored matrix and the direction the contraction takes in it. The other direction is the outer one: rows of C
 * for A, columns of C for B.
 */
struct Operand {
  const void* data = nullptr;
  int32_t dtype = Q4J_F32;
  int64_t ld = 0;                        // elements between stored rows
  const q4j_weight* weight = nullptr;    // or a quantized weight; data, dtype, ld are then unused
  bool contract_rows = false;            // the contraction runs from stored row to stored row, not along a row
  const q4j_dropout* dropout = nullptr;  // dropped elements are zero; kept ones are not scaled
  int64_t dropout_columns = 0;           // columns of the matrix that dropout counts
};

/** An operand for a weight in any format. */
Operand weight_operand(const q4j_weight& weight, bool contract_rows);

struct Branch {
  int64_t rank = 0;  // 0: none
  Operand p;
  Operand q;
  float s = 1.0f;
  bool full_precision = false;           // f32 panels although the main product has bf16 ones
  const q4j_dropout* dropout = nullptr;  // on C, which then has dropout's columns; its scale is not applied
};

struct Epilogue {
  void* c = nullptr;
  int32_t dtype = Q4J_F32;
  int64_t ldc = 0;
  float alpha = 1.0f;          // C = alpha * sum + bias + residual
  bool round_to_bf16 = false;  // f32 C holds values rounded to bf16
  const void* bias = nullptr;  // per column
  int32_t bias_dtype = Q4J_F32;
  const void* residual = nullptr;  // of `dtype`; may be c itself
  int64_t ldr = 0;
};

struct Product {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  bool bf16 = false;   // operands are rounded to bf16; otherwise f32
  bool codes = false;  // rows of A, dense bf16, are quantized to INT8, B is an INT8 weight; both are contracted along rows
  Operand a;
  Operand b;
  Branch branch;
  Epilogue epilogue;
};

/** Threads for a product. Few operations run on the calling one: waking another costs as much. */
inline int threads_for(const ThreadPool& pool, const Product& p) {
  constexpr double kSerialOperations = 1e5;
  const double operations =
      2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k + p.branch.rank);
  return operations < kSerialOperations ? 1 : pool.threads();
}

/** Bytes of workspace for a product. Only m, n, k, bf16, codes, branch.rank and branch.full_precision are read. */
int64_t multiply_workspace_size(const ThreadPool& pool, const Product& product);

/** Computes the product. workspace: multiply_workspace_size bytes, any alignment. */
void multiply(ThreadPool& pool, const Product& product, void* workspace);

}  // namespace q4j::cpu

#endif  // QLORA4J_SRC_CPU_GEMM_H_
