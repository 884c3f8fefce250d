// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operators: workspace, arguments, and which rung runs. */
#include "rms_norm/rms_norm.h"

#include "error.h"
#include "pack/operators.h"
#include "support/partial_sums.h"

namespace q4j::cuda {

q4j_status rms_norm_forward(q4j_pack_context* context, const q4j_rms_norm_forward_params* params) {
  RmsNormForward arguments = {};
  arguments.x = params->x;
  arguments.residual = params->residual;
  arguments.weight = params->weight;
  arguments.sum = params->sum;
  arguments.y = params->y;
  arguments.rstd = static_cast<float*>(params->rstd);
  arguments.m = params->m;
  arguments.n = params->n;
  arguments.eps = params->eps;
  arguments.dtype = params->dtype;
  arguments.unit_offset = params->unit_offset != 0;
  arguments.weight_bf16 = params->weight_dtype == Q4J_BF16;
  return context->rungs.rms_norm == 1 ? rms_norm_forward_1(*context, arguments) : rms_norm_forward_2(*context, arguments);
}

q4j_status rms_norm_backward_workspace_size(q4j_pack_context*, const q4j_rms_norm_backward_params* params, int64_t* bytes) {
  *bytes = params->dweight == nullptr ? 0 : RowChunks(params->m).count * params->n * static_cast<int64_t>(sizeof(float));
  return Q4J_OK;
}

q4j_status rms_norm_backward(q4j_pack_context* context, const q4j_rms_norm_backward_params* params) {
  if (params->m == 0) return Q4J_OK;
  const RowChunks chunks(params->m);
  RmsNormBackward arguments = {};
  arguments.u = params->u;
  arguments.weight = params->weight;
  arguments.rstd = static_cast<const float*>(params->rstd);
  arguments.dy = params->dy;
  arguments.dresidual = params->dresidual;
  arguments.dx = params->dx;
  arguments.partial = params->dweight == nullptr ? nullptr : static_cast<float*>(params->workspace);
  arguments.m = params->m;
  arguments.n = params->n;
  arguments.chunk_rows = chunks.rows;
  arguments.dtype = params->dtype;
  arguments.unit_offset = params->unit_offset != 0;
  arguments.weight_bf16 = params->weight_dtype == Q4J_BF16;
  Q4J_RETURN_IF_ERROR(context->rungs.rms_norm == 1 ? rms_norm_backward_1(*context, arguments)
                                                   : rms_norm_backward_2(*context, arguments));
  if (params->dweight == nullptr) return Q4J_OK;
  return add_partial_sums(*context, arguments.partial, chunks.count, params->n, static_cast<float*>(params->dweight));
}

}  // namespace q4j::cuda
