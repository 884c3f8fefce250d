// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * lora_weight_gradient: da += s dyb^T dropout(x), db += s dy^T xa. docs/kernels/lora.md has shapes, roundings and ladder.
 *
 * Launch contract
 *   x, dy     T[m, k], T[m, n], T = f32 or bf16, with row distances
 *   xa, dyb   f32[m, rank]. With Q4J_LORA_FAST and bf16 they hold values rounded to bf16; else every bit of them counts
 *   da, db    f32[rank, k], f32[n, rank], added to
 * Both are products with sums over m (linear/product.h): db as it stands, da as the transposed of dropout(x)^T dyb, so that the
 * large factor is A in both and x is masked once per element.
 *
 * Rungs
 *   1 linear/product_1.cu: f32 arithmetic on values read one by one. Runs always where activations are f32.
 *   2 linear/product_2_slim.cu: tensor cores, both gradients in one launch; parts of m, where there are several, are summed
 *     in order.
 *   3 linear/slim_dense.h: a library's product for each, wherever it takes it, else rung 2.
 */
#include <algorithm>

#include "error.h"
#include "linear/linear.h"
#include "linear/slim_dense.h"
#include "pack/operators.h"

namespace q4j::cuda {

namespace {

struct Plans {
  Plan da;
  Plan db;
};

q4j_status plan(const q4j_pack_context& context, const q4j_lora_weight_gradient_params& p, Plans* plans) {
  *plans = {};
  if (p.m == 0 || p.lora->rank == 0) return Q4J_OK;
  const int rung = context.rungs.lora_weight_gradient;
  Q4J_RETURN_IF_ERROR(plan_slim({p.k, p.lora->rank, p.m, p.dtype, Elements::kF32}, rung, &plans->da));
  return plan_slim({p.n, p.lora->rank, p.m, p.dtype, Elements::kF32}, rung, &plans->db);
}

/** gradient += scale * large^T slim; large [m, size], slim f32 [m, rank]. */
Product gradient(const Operand& large, const void* slim, const q4j_lora& lora, bool exact, float scale, void* output,
                 bool transposed) {
  Product product = {};
  product.m = large.cols;
  product.n = lora.rank;
  product.k = large.rows;
  product.a = large;
  product.b = lora_operand(slim, large.rows, lora.rank, true);
  product.exact = exact;
  product.output.data = output;
  product.output.ld = transposed ? large.cols : lora.rank;
  product.output.dtype = Q4J_F32;
  product.output.transposed = transposed;
  product.output.scale = scale;
  product.output.added = output;
  product.output.added_ld = product.output.ld;
  return product;
}

/** da, of which x is masked, and db. */
struct Gradients {
  Product da;
  Product db;
};

Gradients gradients(const q4j_lora_weight_gradient_params& p) {
  const q4j_lora& lora = *p.lora;
  const bool exact = is_exact(lora, p.dtype);
  const DropoutMask mask = make_dropout_mask(lora.dropout, p.k);
  Gradients result;
  result.da = gradient(dense_operand(p.x, p.dtype, p.m, p.k, p.ldx), p.dyb, lora, exact, lora.s * mask.scale, p.da, true);
  result.da.a_mask = mask;
  result.db = gradient(dense_operand(p.dy, p.dtype, p.m, p.n, p.lddy), p.xa, lora, exact, lora.s, p.db, false);
  return result;
}

bool by_library(q4j_pack_context* context, const Gradients& g) {
  return context->rungs.lora_weight_gradient == 3 && slim_dense_takes(context, g.da, g.da.k) &&
         slim_dense_takes(context, g.db, g.db.k);
}

}  // namespace

q4j_status lora_weight_gradient_workspace_size(q4j_pack_context* context, const q4j_lora_weight_gradient_params* p,
                                               int64_t* bytes) {
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan(*context, *p, &plans));
  *bytes = plans.da.workspace_bytes + plans.db.workspace_bytes;
  if (p->m == 0 || p->lora->rank == 0 || !by_library(context, gradients(*p))) return Q4J_OK;
  *bytes = std::max(*bytes, slim_dense_workspace(p->m * p->lora->rank));
  return Q4J_OK;
}

q4j_status lora_weight_gradient(q4j_pack_context* context, const q4j_lora_weight_gradient_params* p) {
  if (p->m == 0 || p->lora->rank == 0) return Q4J_OK;
  const Gradients both = gradients(*p);
  const Product& da = both.da;
  const Product& db = both.db;
  if (by_library(context, both)) {
    Q4J_RETURN_IF_ERROR(slim_dense(context, da, Order::kOuter, Order::kOuter, p->workspace));
    return slim_dense(context, db, Order::kOuter, Order::kOuter, p->workspace);
  }
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan(*context, *p, &plans));
  if (plans.da.path == Path::kElements) {
    Q4J_RETURN_IF_ERROR(product_1(*context, da, Order::kOuter, Order::kOuter));
    return product_1(*context, db, Order::kOuter, Order::kOuter);
  }
  plans.da.split.partial = static_cast<float*>(p->workspace);
  plans.db.split.partial = plans.da.split.partial + plans.da.workspace_bytes / 4;
  Q4J_RETURN_IF_ERROR(product_2_slim_pair(*context, {da, plans.da.split}, {db, plans.db.split}));
  if (plans.da.split.parts > 1) Q4J_RETURN_IF_ERROR(sum_parts(*context, da, plans.da.split));
  return plans.db.split.parts > 1 ? sum_parts(*context, db, plans.db.split) : Q4J_OK;
}

}  // namespace q4j::cuda
