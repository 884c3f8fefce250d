// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operator: arguments, and which rung runs. */
#include "rotary/rotary.h"

#include "pack/operators.h"

namespace q4j::cuda {

q4j_status rotary(q4j_pack_context* context, const q4j_rotary_params* params) {
  Rotary arguments = {};
  arguments.positions = static_cast<const int32_t*>(params->positions);
  arguments.inverse_frequencies = static_cast<const float*>(params->inverse_frequencies);
  arguments.x = params->x;
  arguments.tokens = params->tokens;
  arguments.heads = params->heads;
  arguments.token_stride = params->token_stride;
  arguments.head_stride = params->head_stride;
  arguments.half = params->rotary_dim / 2;
  arguments.dtype = params->dtype;
  arguments.attention_scale = params->attention_scale;
  arguments.inverse = params->inverse != 0;
  return context->rungs.rotary == 1 ? rotary_1(*context, arguments) : rotary_2(*context, arguments);
}

}  // namespace q4j::cuda
