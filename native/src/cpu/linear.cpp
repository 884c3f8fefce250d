// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Linear layers with a weight in any canonical layout and a LoRA branch, forward and backward to the input. Both are a narrow
 * product (xa or dyb) and a wide one that takes the branch in; see gemm.h. docs/lora.md has the formulas,
 * docs/kernels/linear.md the measurements.
 *
 * Dropout's scale is applied where it costs nothing and rounds once: to xa in the narrow product's epilogue, to the branch with
 * s.
 */
#include <algorithm>

#include "cpu_operators.h"
#include "error.h"
#include "gemm.h"
#include "linear_small.h"
#include "linear_small_backward.h"
#include "pack_context.h"
#include "support/philox.h"

namespace q4j::cpu {

namespace {

int64_t rank_of(const q4j_lora* lora) { return lora == nullptr ? 0 : lora->rank; }

const q4j_dropout* dropout_of(const q4j_lora& lora) { return lora.dropout.probability > 0.0f ? &lora.dropout : nullptr; }

float scale_of(const q4j_lora& lora) {
  return lora.dropout.probability > 0.0f ? dropout_scale(lora.dropout.probability) : 1.0f;
}

Operand dense(const void* data, int32_t dtype, int64_t ld, bool contract_rows) {
  Operand operand;
  operand.data = data;
  operand.dtype = dtype;
  operand.ld = ld;
  operand.contract_rows = contract_rows;
  return operand;
}

// The branch computes in bf16 where the call does and the user did not ask for more.
bool branch_in_bf16(int32_t dtype, const q4j_lora& lora) { return dtype == Q4J_BF16 && lora.compute == Q4J_LORA_FAST; }

// The weights these kernels read.
q4j_status check_weight(const char* operation, const q4j_weight* weight) {
  const bool known = weight == nullptr || (weight->format <= Q4J_WEIGHT_FP8 && weight->layout == Q4J_LAYOUT_CANONICAL);
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "%s: this pack multiplies weights in the canonical layout, found format %d, layout %d",
              operation, weight->format, weight->layout);
  return Q4J_OK;
}

// xa = dropout(x) * a^T
Product forward_xa(const q4j_linear_forward_params& p) {
  Product product;
  product.m = p.m;
  product.n = p.lora->rank;
  product.k = p.weight->cols;
  product.bf16 = branch_in_bf16(p.dtype, *p.lora);
  product.a = dense(p.x, p.dtype, p.ldx, false);
  product.a.dropout = dropout_of(*p.lora);
  product.a.dropout_columns = p.weight->cols;
  product.b = dense(p.lora->a, Q4J_F32, p.weight->cols, false);
  product.epilogue.c = p.xa;
  product.epilogue.ldc = p.lora->rank;
  product.epilogue.alpha = scale_of(*p.lora);
  product.epilogue.round_to_bf16 = product.bf16;
  return product;
}

// y = x * w^T + s * xa * b^T + bias + residual
Product forward_y(const q4j_linear_forward_params& p) {
  Product product;
  product.m = p.m;
  product.n = p.weight->rows;
  product.k = p.weight->cols;
  product.bf16 = p.dtype == Q4J_BF16;
  product.codes = p.weight->format == Q4J_WEIGHT_INT8 && product.bf16;
  product.a = dense(p.x, p.dtype, p.ldx, false);
  product.b = weight_operand(*p.weight, false);
  if (rank_of(p.lora) > 0) {
    product.branch.rank = p.lora->rank;
    product.branch.full_precision = !branch_in_bf16(p.dtype, *p.lora);
    product.branch.s = p.lora->s;
    product.branch.p = dense(p.xa, Q4J_F32, p.lora->rank, false);
    product.branch.q = dense(p.lora->b, Q4J_F32, p.lora->rank, false);
  }
  product.epilogue.c = p.y;
  product.epilogue.dtype = p.dtype;
  product.epilogue.ldc = p.ldy;
  product.epilogue.bias = p.bias;
  product.epilogue.bias_dtype = p.bias_dtype;
  product.epilogue.residual = p.residual;
  product.epilogue.ldr = p.ldr;
  return product;
}

// dyb = dy * b
Product backward_dyb(const q4j_linear_backward_input_params& p) {
  Product product;
  product.m = p.m;
  product.n = p.lora->rank;
  product.k = p.n;
  product.bf16 = branch_in_bf16(p.dtype, *p.lora);
  product.a = dense(p.dy, p.dtype, p.lddy, false);
  product.b = dense(p.lora->b, Q4J_F32, p.lora->rank, true);
  product.epilogue.c = p.dyb;
  product.epilogue.ldc = p.lora->rank;
  product.epilogue.round_to_bf16 = product.bf16;
  return product;
}

// dx = dy * w + s * mask(dyb * a) (+ dx)
Product backward_dx(const q4j_linear_backward_input_params& p) {
  Product product;
  product.m = p.m;
  product.n = p.k;
  product.k = p.n;
  product.bf16 = p.dtype == Q4J_BF16;
  product.a = dense(p.dy, p.dtype, p.lddy, false);
  product.b = weight_operand(*p.weight, true);
  if (rank_of(p.lora) > 0) {
    product.branch.rank = p.lora->rank;
    product.branch.full_precision = !branch_in_bf16(p.dtype, *p.lora);
    product.branch.s = p.lora->s * scale_of(*p.lora);
    product.branch.p = dense(p.dyb, Q4J_F32, p.lora->rank, false);
    product.branch.q = dense(p.lora->a, Q4J_F32, p.k, true);
    product.branch.dropout = dropout_of(*p.lora);
  }
  product.epilogue.c = p.dx;
  product.epilogue.dtype = p.dtype;
  product.epilogue.ldc = p.lddx;
  if (p.accumulate != 0) {
    product.epilogue.residual = p.dx;
    product.epilogue.ldr = p.lddx;
  }
  return product;
}

// The ways of computing a product. Which one is taken may depend on more than the workspace's size may.
int64_t workspace_size(const ThreadPool& pool, const Product& product) {
  return std::max({multiply_workspace_size(pool, product), multiply_small_workspace_size(pool, product),
                   multiply_small_backward_workspace_size(pool, product)});
}

void multiply_fastest(ThreadPool& pool, const Product& product, void* workspace) {
  if (serves_small(product)) {
    multiply_small(pool, product, workspace);
  } else if (serves_small_backward(product)) {
    multiply_small_backward(pool, product, workspace);
  } else {
    multiply(pool, product, workspace);
  }
}

}  // namespace

q4j_status linear_forward_workspace_size(q4j_pack_context* context, const q4j_linear_forward_params* params, int64_t* bytes) {
  Q4J_RETURN_IF_ERROR(check_weight("linear_forward", params->weight));
  // Pointers may still be NULL here, so y counts as wanted, and dx below.
  *bytes = workspace_size(context->pool, forward_y(*params));
  if (rank_of(params->lora) > 0) *bytes = std::max(*bytes, workspace_size(context->pool, forward_xa(*params)));
  return Q4J_OK;
}

q4j_status linear_forward(q4j_pack_context* context, const q4j_linear_forward_params* params) {
  if (rank_of(params->lora) > 0) multiply_fastest(context->pool, forward_xa(*params), params->workspace);
  if (params->y != nullptr) multiply_fastest(context->pool, forward_y(*params), params->workspace);
  return Q4J_OK;
}

q4j_status linear_backward_input_workspace_size(q4j_pack_context* context, const q4j_linear_backward_input_params* params,
                                                int64_t* bytes) {
  Q4J_RETURN_IF_ERROR(check_weight("linear_backward_input", params->weight));
  *bytes = params->weight == nullptr ? 0 : workspace_size(context->pool, backward_dx(*params));
  if (rank_of(params->lora) > 0) *bytes = std::max(*bytes, workspace_size(context->pool, backward_dyb(*params)));
  return Q4J_OK;
}

q4j_status linear_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params* params) {
  if (rank_of(params->lora) > 0) multiply_fastest(context->pool, backward_dyb(*params), params->workspace);
  if (params->dx != nullptr) multiply_fastest(context->pool, backward_dx(*params), params->workspace);
  return Q4J_OK;
}

}  // namespace q4j::cpu
