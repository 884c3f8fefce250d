// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operators: arguments, and which rung runs. */
#include "activation/activation.h"

#include "pack/operators.h"

namespace q4j::cuda {

q4j_status activation_forward(q4j_pack_context* context, const q4j_activation_forward_params* params) {
  ActivationForward arguments = {};
  arguments.x = params->x;
  arguments.up = params->up;
  arguments.y = params->y;
  arguments.m = params->m;
  arguments.n = params->n;
  arguments.ldx = params->ldx;
  arguments.ldup = params->ldup;
  arguments.dtype = params->dtype;
  arguments.activation = params->activation;
  return context->rungs.activation == 1 ? activation_forward_1(*context, arguments) : activation_forward_2(*context, arguments);
}

q4j_status activation_backward(q4j_pack_context* context, const q4j_activation_backward_params* params) {
  ActivationBackward arguments = {};
  arguments.x = params->x;
  arguments.up = params->up;
  arguments.dy = params->dy;
  arguments.dx = params->dx;
  arguments.dup = params->dup;
  arguments.m = params->m;
  arguments.n = params->n;
  arguments.ldx = params->ldx;
  arguments.ldup = params->ldup;
  arguments.lddx = params->lddx;
  arguments.lddup = params->lddup;
  arguments.dtype = params->dtype;
  arguments.activation = params->activation;
  return context->rungs.activation == 1 ? activation_backward_1(*context, arguments)
                                        : activation_backward_2(*context, arguments);
}

}  // namespace q4j::cuda
