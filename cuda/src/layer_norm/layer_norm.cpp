// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operators: workspace, arguments, and which rung runs. */
#include "layer_norm/layer_norm.h"

#include "error.h"
#include "pack/operators.h"
#include "support/partial_sums.h"

namespace q4j::cuda {

namespace {

int64_t gradients(const q4j_layer_norm_backward_params& params) {
  return (params.dweight != nullptr ? 1 : 0) + (params.dbias != nullptr ? 1 : 0);
}

}  // namespace

q4j_status layer_norm_forward(q4j_pack_context* context, const q4j_layer_norm_forward_params* params) {
  LayerNormForward arguments = {};
  arguments.x = params->x;
  arguments.residual = params->residual;
  arguments.weight = params->weight;
  arguments.bias = params->bias;
  arguments.sum = params->sum;
  arguments.y = params->y;
  arguments.mean = static_cast<float*>(params->mean);
  arguments.rstd = static_cast<float*>(params->rstd);
  arguments.m = params->m;
  arguments.n = params->n;
  arguments.eps = params->eps;
  arguments.dtype = params->dtype;
  arguments.weight_bf16 = params->weight_dtype == Q4J_BF16;
  return context->rungs.layer_norm == 1 ? layer_norm_forward_1(*context, arguments) : layer_norm_forward_2(*context, arguments);
}

q4j_status layer_norm_backward_workspace_size(q4j_pack_context*, const q4j_layer_norm_backward_params* params, int64_t* bytes) {
  *bytes = gradients(*params) * RowChunks(params->m).count * params->n * static_cast<int64_t>(sizeof(float));
  return Q4J_OK;
}

q4j_status layer_norm_backward(q4j_pack_context* context, const q4j_layer_norm_backward_params* params) {
  if (params->m == 0) return Q4J_OK;
  const RowChunks chunks(params->m);
  auto* workspace = static_cast<float*>(params->workspace);
  LayerNormBackward arguments = {};
  arguments.u = params->u;
  arguments.weight = params->weight;
  arguments.mean = static_cast<const float*>(params->mean);
  arguments.rstd = static_cast<const float*>(params->rstd);
  arguments.dy = params->dy;
  arguments.dresidual = params->dresidual;
  arguments.dx = params->dx;
  if (params->dweight != nullptr) arguments.weight_partial = workspace;
  if (params->dbias != nullptr) arguments.bias_partial = params->dweight != nullptr ? workspace + params->n : workspace;
  arguments.partial_step = gradients(*params) * params->n;
  arguments.m = params->m;
  arguments.n = params->n;
  arguments.chunk_rows = chunks.rows;
  arguments.dtype = params->dtype;
  arguments.weight_bf16 = params->weight_dtype == Q4J_BF16;
  Q4J_RETURN_IF_ERROR(context->rungs.layer_norm == 1 ? layer_norm_backward_1(*context, arguments)
                                                     : layer_norm_backward_2(*context, arguments));
  if (!arguments.has_sums()) return Q4J_OK;
  auto* dweight = static_cast<float*>(params->dweight);
  auto* dbias = static_cast<float*>(params->dbias);
  return dweight != nullptr ? add_partial_sums(*context, workspace, chunks.count, params->n, dweight, dbias)
                            : add_partial_sums(*context, workspace, chunks.count, params->n, dbias);
}

}  // namespace q4j::cuda
