// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operators: arguments become products. */
#include "linear/linear.h"

#include <algorithm>

#include "error.h"
#include "linear/inner_few.h"
#include "linear/int8_forward.h"
#include "linear/slim_dense.h"
#include "linear/strip.h"
#include "linear/wgmma.h"
#include "pack/operators.h"
#include "pack_weight/packed_layout.h"

namespace q4j::cuda {

q4j_status readable_weight(const q4j_weight& weight, q4j_weight* canonical) {
  *canonical = weight;
  if (weight.layout != Q4J_LAYOUT_PACKED) return Q4J_OK;
  Q4J_REQUIRE(reinterpret_cast<uintptr_t>(weight.data) % kPackedAlignment == 0, Q4J_INVALID_ARGUMENT,
              "a packed weight must be aligned to %lld bytes, as pack_weight's memory was, found %p",
              static_cast<long long>(kPackedAlignment), weight.data);
  if (!packed_layout(weight).tiles) *canonical = canonical_parts(weight);
  return Q4J_OK;
}

namespace {

/** The two products of an operator. */
struct Plans {
  Plan inner; /* of xa or dyb */
  Plan outer;

  int64_t workspace_bytes() const { return std::max(inner.workspace_bytes, outer.workspace_bytes); }
};

/** `n` and `k`: of the outer product, [m, n] from sums over k. */
q4j_status plan(const q4j_pack_context& context, int64_t m, int64_t n, int64_t k, int32_t dtype, const q4j_weight* weight,
                Order b, const q4j_lora* lora, bool wants_outer, int rung, int few_rung, Plans* plans) {
  *plans = {};
  if (m == 0) return Q4J_OK;
  if (has_branch(lora)) {
    Q4J_RETURN_IF_ERROR(plan_slim({m, lora->rank, k, dtype, Elements::kF32}, rung, &plans->inner));
  }
  if (!wants_outer) return Q4J_OK;
  const bool few = elements_of(*weight) == Elements::kPackedTiles && dtype == Q4J_BF16 && rung > 1 &&
                   takes_small(context, m, weight->rows, weight->cols);
  return plan_product({m, n, k, dtype, elements_of(*weight), b, few ? few_rung : 0}, rung, &plans->outer);
}

q4j_status plan_forward(const q4j_pack_context& context, const q4j_linear_forward_params& p, Plans* plans) {
  return plan(context, p.m, p.weight->rows, p.weight->cols, p.dtype, p.weight, Order::kContraction, p.lora,
              !multiplies_codes(p), context.rungs.linear_forward, context.rungs.linear_forward_small, plans);
}

q4j_status plan_backward(const q4j_pack_context& context, const q4j_linear_backward_input_params& p, Plans* plans) {
  return plan(context, p.m, p.k, p.n, p.dtype, p.weight, Order::kOuter, p.lora, p.weight != nullptr,
              context.rungs.linear_backward_input, context.rungs.linear_backward_input_small, plans);
}

/** xa or dyb: f32 [m, rank]. */
Output inner_output(void* data, const q4j_lora& lora, bool exact, float scale) {
  Output output = {};
  output.data = data;
  output.ld = lora.rank;
  output.dtype = Q4J_F32;
  output.rounds = !exact;
  output.scale = scale;
  return output;
}

/** xa = dropout(x) a^T. */
Product inner_of(const q4j_linear_forward_params& p) {
  const int64_t k = p.weight->cols;
  const bool exact = is_exact(*p.lora, p.dtype);
  Product inner = {};
  inner.m = p.m;
  inner.n = p.lora->rank;
  inner.k = k;
  inner.a = dense_operand(p.x, p.dtype, p.m, k, p.ldx);
  inner.b = lora_operand(p.lora->a, p.lora->rank, k, exact);
  inner.a_mask = make_dropout_mask(p.lora->dropout, k);
  inner.exact = exact;
  inner.output = inner_output(p.xa, *p.lora, exact, inner.a_mask.scale);
  return inner;
}

/** dyb = dy b. */
Product inner_of(const q4j_linear_backward_input_params& p) {
  const bool exact = is_exact(*p.lora, p.dtype);
  Product inner = {};
  inner.m = p.m;
  inner.n = p.lora->rank;
  inner.k = p.n;
  inner.a = dense_operand(p.dy, p.dtype, p.m, p.n, p.lddy);
  inner.b = lora_operand(p.lora->b, p.n, p.lora->rank, exact);
  inner.exact = exact;
  inner.output = inner_output(p.dyb, *p.lora, exact, 1.0f);
  return inner;
}

/** From rung 3 on a library may serve the products of the branch, as it does those of the layer; few rows have inner_few.h. */
bool inner_by_library(q4j_pack_context* context, const Product& inner, int rung) {
  return rung >= 3 && slim_dense_takes(context, inner, inner.m);
}

q4j_status run_inner(q4j_pack_context* context, const Product& inner, Order b, const Plan& plan, int rung, void* workspace) {
  if (rung >= 3 && b == Order::kContraction && inner_few_takes(inner)) return inner_few(*context, inner);
  return inner_by_library(context, inner, rung) ? slim_dense(context, inner, Order::kContraction, b, workspace)
                                                : run_product(*context, inner, Order::kContraction, b, plan, workspace);
}

template <typename Params>
int64_t inner_workspace(q4j_pack_context* context, const Params& p, int rung) {
  if (p.m == 0 || !has_branch(p.lora)) return 0;
  const Product inner = inner_of(p);
  return inner_by_library(context, inner, rung) ? slim_dense_workspace(inner.b.rows * inner.b.cols) : 0;
}

/** Of the path that may make the whole call: pointers may be missing yet, and then count as aligned. */
template <typename Params>
int64_t call_workspace(q4j_pack_context* context, const Params& params) {
  switch (choose_path(context, params)) {
    case CallPath::kStrips:
      return strip_workspace(params);
    case CallPath::kWgmma:
      return wgmma_workspace(params);
    case CallPath::kProducts:
      break;
  }
  return 0;
}

}  // namespace

q4j_status linear_forward_workspace_size(q4j_pack_context* context, const q4j_linear_forward_params* p, int64_t* bytes) {
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan_forward(*context, *p, &plans));
  *bytes = plans.workspace_bytes();
  if (multiplies_codes(*p)) *bytes = std::max(*bytes, int8_forward_workspace(*p));
  *bytes = std::max({*bytes, call_workspace(context, *p), inner_workspace(context, *p, context->rungs.linear_forward)});
  return Q4J_OK;
}

q4j_status linear_forward(q4j_pack_context* context, const q4j_linear_forward_params* p) {
  if (p->m == 0) return Q4J_OK;
  const int64_t n = p->weight->rows;
  const int64_t k = p->weight->cols;
  const bool branch = has_branch(p->lora);
  const bool exact = branch && is_exact(*p->lora, p->dtype);
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan_forward(*context, *p, &plans));
  if (branch) {
    Q4J_RETURN_IF_ERROR(
        run_inner(context, inner_of(*p), Order::kContraction, plans.inner, context->rungs.linear_forward, p->workspace));
  }
  if (p->y == nullptr) return Q4J_OK;

  if (multiplies_codes(*p)) return int8_forward(context, *p, p->workspace);
  q4j_weight weight;
  Q4J_RETURN_IF_ERROR(readable_weight(*p->weight, &weight));
  switch (choose_path(context, *p)) {
    case CallPath::kStrips:
      return strip_forward(context, *p, p->workspace);
    case CallPath::kWgmma:
      return wgmma_forward(context, *p, p->workspace);
    case CallPath::kProducts:
      break;
  }
  Product outer = {};
  outer.m = p->m;
  outer.n = n;
  outer.k = k;
  outer.a = dense_operand(p->x, p->dtype, p->m, k, p->ldx);
  outer.b = weight_operand(weight, p->dtype == Q4J_BF16);
  if (branch) {
    outer.branch.rank = p->lora->rank;
    outer.branch.exact = exact;
    outer.branch.scale = p->lora->s;
    outer.branch.inner = lora_operand(p->xa, p->m, p->lora->rank, true);
    outer.branch.factor = lora_operand(p->lora->b, n, p->lora->rank, exact);
  }
  outer.output.data = p->y;
  outer.output.ld = p->ldy;
  outer.output.dtype = p->dtype;
  outer.output.scale = 1.0f;
  outer.output.added = p->residual;
  outer.output.added_ld = p->ldr;
  outer.output.bias = p->bias;
  outer.output.bias_dtype = p->bias_dtype;
  return run_product(*context, outer, Order::kContraction, Order::kContraction, plans.outer, p->workspace);
}

q4j_status linear_backward_input_workspace_size(q4j_pack_context* context, const q4j_linear_backward_input_params* p,
                                                int64_t* bytes) {
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan_backward(*context, *p, &plans));
  *bytes = std::max({plans.workspace_bytes(), call_workspace(context, *p),
                     inner_workspace(context, *p, context->rungs.linear_backward_input)});
  return Q4J_OK;
}

q4j_status linear_backward_input(q4j_pack_context* context, const q4j_linear_backward_input_params* p) {
  if (p->m == 0) return Q4J_OK;
  const bool branch = has_branch(p->lora);
  const bool exact = branch && is_exact(*p->lora, p->dtype);
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan_backward(*context, *p, &plans));
  if (branch) {
    Q4J_RETURN_IF_ERROR(
        run_inner(context, inner_of(*p), Order::kOuter, plans.inner, context->rungs.linear_backward_input, p->workspace));
  }
  if (p->dx == nullptr) return Q4J_OK;
  q4j_weight weight;
  Q4J_RETURN_IF_ERROR(readable_weight(*p->weight, &weight));
  switch (choose_path(context, *p)) {
    case CallPath::kStrips:
      return strip_backward_input(context, *p, p->workspace);
    case CallPath::kWgmma:
      return wgmma_backward_input(context, *p, p->workspace);
    case CallPath::kProducts:
      break;
  }
  Product outer = {};
  outer.m = p->m;
  outer.n = p->k;
  outer.k = p->n;
  outer.a = dense_operand(p->dy, p->dtype, p->m, p->n, p->lddy);
  outer.b = weight_operand(weight, p->dtype == Q4J_BF16);
  if (branch) {
    outer.branch.rank = p->lora->rank;
    outer.branch.exact = exact;
    outer.branch.mask = make_dropout_mask(p->lora->dropout, p->k);
    outer.branch.scale = p->lora->s * outer.branch.mask.scale;
    outer.branch.inner = lora_operand(p->dyb, p->m, p->lora->rank, true);
    outer.branch.factor = lora_operand(p->lora->a, p->lora->rank, p->k, exact);
  }
  outer.output.data = p->dx;
  outer.output.ld = p->lddx;
  outer.output.dtype = p->dtype;
  outer.output.scale = 1.0f;
  outer.output.added = p->accumulate != 0 ? p->dx : nullptr;
  outer.output.added_ld = p->lddx;
  return run_product(*context, outer, Order::kContraction, Order::kOuter, plans.outer, p->workspace);
}

}  // namespace q4j::cuda
