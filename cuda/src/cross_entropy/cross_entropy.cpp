// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operator: arguments, and which rung runs. */
#include "cross_entropy/cross_entropy.h"

#include "pack/operators.h"

namespace q4j::cuda {

q4j_status cross_entropy(q4j_pack_context* context, const q4j_cross_entropy_params* params) {
  CrossEntropy arguments = {};
  arguments.logits = params->logits;
  arguments.labels = static_cast<const int32_t*>(params->labels);
  arguments.loss = static_cast<float*>(params->loss);
  arguments.dlogits = params->dlogits;
  arguments.m = params->m;
  arguments.ldlogits = params->ldlogits;
  arguments.lddlogits = params->lddlogits;
  arguments.n = static_cast<int32_t>(params->n);  // the loader lets no more classes through
  arguments.dtype = params->dtype;
  arguments.smoothing = params->smoothing;
  arguments.z_loss = params->z_loss;
  arguments.scale = params->scale;
  return context->rungs.cross_entropy == 1 ? cross_entropy_1(*context, arguments) : cross_entropy_2(*context, arguments);
}

}  // namespace q4j::cuda
