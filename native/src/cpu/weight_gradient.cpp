// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Gradients of weights: products whose contraction runs over the rows of the batch, added to f32. Both operands are stored with
 * that direction outermost, so their panels are made without transposing.
 */
#include <algorithm>

#include "cpu_operators.h"
#include "gemm.h"
#include "pack_context.h"
#include "support/philox.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

Operand rows_of(const void* data, int32_t dtype, int64_t ld) {
  Operand operand;
  operand.data = data;
  operand.dtype = dtype;
  operand.ld = ld;
  operand.contract_rows = true;
  return operand;
}

// c [rows, columns] += alpha * p^T * q over m rows of p and q.
Product gradient(int64_t rows, int64_t columns, int64_t m, bool bf16, const Operand& p, const Operand& q, float alpha,
                 void* c) {
  Product product;
  product.m = rows;
  product.n = columns;
  product.k = m;
  product.bf16 = bf16;
  product.a = p;
  product.b = q;
  product.epilogue.c = c;
  product.epilogue.ldc = columns;
  product.epilogue.alpha = alpha;
  product.epilogue.residual = c;
  product.epilogue.ldr = columns;
  return product;
}

// In the fast mode xa and dyb hold bf16 values, x and dy do as well: nothing is rounded here.
bool in_bf16(const q4j_lora_weight_gradient_params& p) { return p.dtype == Q4J_BF16 && p.lora->compute == Q4J_LORA_FAST; }

// da += s * dyb^T * dropout(x)
Product gradient_a(const q4j_lora_weight_gradient_params& p) {
  const bool drops = p.lora->dropout.probability > 0.0f;
  Operand x = rows_of(p.x, p.dtype, p.ldx);
  x.dropout = drops ? &p.lora->dropout : nullptr;
  x.dropout_columns = p.k;
  const float scale = drops ? dropout_scale(p.lora->dropout.probability) : 1.0f;
  return gradient(p.lora->rank, p.k, p.m, in_bf16(p), rows_of(p.dyb, Q4J_F32, p.lora->rank), x, p.lora->s * scale, p.da);
}

// db += s * dy^T * xa
Product gradient_b(const q4j_lora_weight_gradient_params& p) {
  return gradient(p.n, p.lora->rank, p.m, in_bf16(p), rows_of(p.dy, p.dtype, p.lddy), rows_of(p.xa, Q4J_F32, p.lora->rank),
                  p.lora->s, p.db);
}

// dw += dy^T * x
Product gradient_w(const q4j_linear_weight_gradient_params& p) {
  return gradient(p.n, p.k, p.m, p.dtype == Q4J_BF16, rows_of(p.dy, p.dtype, p.lddy), rows_of(p.x, p.dtype, p.ldx), 1.0f, p.dw);
}

// Rows that are summed before they are added to the total: the error grows with this and with the number of such groups,
// not with their product.
constexpr int64_t kGroupRows = 64;

template <class T>
void add_column_sums(ThreadPool& pool, const T* matrix, int64_t ld, int64_t rows, int64_t columns, float* sums) {
  // Whole cache lines of every row, and enough of them for a task to be worth handing out.
  const int64_t grain = std::max<int64_t>(4 * kLanes, 65536 / std::max<int64_t>(rows, 1) / kLanes * kLanes);
  pool.parallel_pieces(columns, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t column = begin; column < end; column += kLanes) {
      const Mask lanes = first_lanes(end - column);
      Vec total = zero();
      for (int64_t first = 0; first < rows; first += kGroupRows) {
        Vec group = zero();
        for (int64_t row = first; row < std::min(first + kGroupRows, rows); ++row) {
          group = group + load(matrix + row * ld + column, lanes);
        }
        total = total + group;
      }
      store(sums + column, load(sums + column, lanes) + total, lanes);
    }
  });
}

}  // namespace

q4j_status lora_weight_gradient_workspace_size(q4j_pack_context* context, const q4j_lora_weight_gradient_params* params,
                                               int64_t* bytes) {
  *bytes = 0;
  if (params->lora->rank > 0) {
    *bytes = std::max(multiply_workspace_size(context->pool, gradient_a(*params)),
                      multiply_workspace_size(context->pool, gradient_b(*params)));
  }
  return Q4J_OK;
}

q4j_status lora_weight_gradient(q4j_pack_context* context, const q4j_lora_weight_gradient_params* params) {
  if (params->lora->rank > 0 && params->m > 0) {
    multiply(context->pool, gradient_a(*params), params->workspace);
    multiply(context->pool, gradient_b(*params), params->workspace);
  }
  return Q4J_OK;
}

q4j_status linear_weight_gradient_workspace_size(q4j_pack_context* context, const q4j_linear_weight_gradient_params* params,
                                                 int64_t* bytes) {
  *bytes = multiply_workspace_size(context->pool, gradient_w(*params));
  return Q4J_OK;
}

q4j_status linear_weight_gradient(q4j_pack_context* context, const q4j_linear_weight_gradient_params* params) {
  if (params->m == 0) return Q4J_OK;
  if (params->dw != nullptr) multiply(context->pool, gradient_w(*params), params->workspace);
  if (params->dbias != nullptr) {
    auto* sums = static_cast<float*>(params->dbias);
    if (params->dtype == Q4J_BF16) {
      add_column_sums(context->pool, static_cast<const bf16*>(params->dy), params->lddy, params->m, params->n, sums);
    } else {
      add_column_sums(context->pool, static_cast<const float*>(params->dy), params->lddy, params->m, params->n, sums);
    }
  }
  return Q4J_OK;
}

}  // namespace q4j::cpu
