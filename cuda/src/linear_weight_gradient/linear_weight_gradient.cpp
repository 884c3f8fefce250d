// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#include "linear_weight_gradient/linear_weight_gradient.h"

#include <algorithm>

#include "error.h"
#include "linear/dense_product.h"
#include "linear/linear.h"
#include "linear/strip.h"
#include "pack/operators.h"

namespace q4j::cuda {

namespace {

struct Plans {
  Plan dw;
  ColumnSums dbias;
};

/** For both outputs, whether or not they are wanted: the workspace may be asked for before there are pointers. */
q4j_status plan(const q4j_pack_context& context, const q4j_linear_weight_gradient_params& p, Plans* plans) {
  *plans = {};
  if (p.m == 0) return Q4J_OK;
  Q4J_RETURN_IF_ERROR(
      plan_gradient({p.n, p.k, p.m, p.dtype, Elements::kBf16}, context.rungs.linear_weight_gradient, &plans->dw));
  plans->dbias.input = p.dy;
  plans->dbias.rows = p.m;
  plans->dbias.cols = p.n;
  plans->dbias.ld = p.lddy;
  plans->dbias.dtype = p.dtype;
  plans->dbias.output = static_cast<float*>(p.dbias);
  cut_rows(&plans->dbias);
  return Q4J_OK;
}

int64_t dbias_bytes(const Plans& plans) { return plans.dbias.parts > 1 ? plans.dbias.parts * plans.dbias.cols * 4 : 0; }

/** Rung 3: dw by a library, where the rows of its factors are aligned to 16 bytes. */
bool by_library(q4j_pack_context* context, const q4j_linear_weight_gradient_params& p) {
  return context->rungs.linear_weight_gradient == 3 && p.dtype == Q4J_BF16 && is_wide(p.x, p.ldx) && is_wide(p.dy, p.lddy) &&
         p.n % 8 == 0 && p.k % 8 == 0 && reinterpret_cast<uintptr_t>(p.dw) % 16 == 0 && strip_available(context);
}

}  // namespace

q4j_status linear_weight_gradient_workspace_size(q4j_pack_context* context, const q4j_linear_weight_gradient_params* p,
                                                 int64_t* bytes) {
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan(*context, *p, &plans));
  *bytes = std::max(plans.dw.workspace_bytes, dbias_bytes(plans));
  if (p->m > 0 && by_library(context, *p)) *bytes = std::max(*bytes, DenseMultiplier::kScratchBytes);
  return Q4J_OK;
}

q4j_status linear_weight_gradient(q4j_pack_context* context, const q4j_linear_weight_gradient_params* p) {
  if (p->m == 0) return Q4J_OK;
  Plans plans;
  Q4J_RETURN_IF_ERROR(plan(*context, *p, &plans));
  if (p->dbias != nullptr) {
    plans.dbias.partial = static_cast<float*>(p->workspace);
    Q4J_RETURN_IF_ERROR(column_sums(*context, plans.dbias));
  }
  if (p->dw == nullptr) return Q4J_OK;
  if (by_library(context, *p)) {
    DenseProduct dw = {};
    dw.m = p->n;
    dw.n = p->k;
    dw.k = p->m;
    dw.a = p->dy;
    dw.lda = p->lddy;
    dw.a_transposed = true;
    dw.b = p->x;
    dw.ldb = p->ldx;
    dw.scale = 1.0f;
    dw.c = p->dw;
    dw.ldc = p->k;
    dw.d = p->dw;
    dw.ldd = p->k;
    dw.dtype = Q4J_F32;
    return context->dense->multiply(*context, dw, DenseMultiplier::scratch_in(p->workspace));
  }
  Product product = {};
  product.m = p->n;
  product.n = p->k;
  product.k = p->m;
  product.a = dense_operand(p->dy, p->dtype, p->m, p->n, p->lddy);
  product.b = dense_operand(p->x, p->dtype, p->m, p->k, p->ldx);
  product.output.data = p->dw;
  product.output.ld = p->k;
  product.output.dtype = Q4J_F32;
  product.output.scale = 1.0f;
  product.output.added = p->dw;
  product.output.added_ld = p->k;
  return run_product(*context, product, Order::kOuter, Order::kOuter, plans.dw, p->workspace);
}

}  // namespace q4j::cuda
