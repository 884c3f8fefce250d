// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** The operator: arguments, and which rung runs. */
#include "adamw_8bit/adamw_8bit.h"

#include <algorithm>
#include <cmath>

#include "pack/operators.h"

namespace q4j::cuda {

namespace {

/** Elements of a tile that a warp takes, at least: enough that the search for the tile's tensor costs little. */
constexpr int kLeastShare = 1024;

Step8 step_of(const q4j_adamw_8bit_params& p) {
  const auto steps = static_cast<double>(p.t);
  Step8 step = {};
  step.beta1 = static_cast<float>(p.beta1);
  step.rest1 = static_cast<float>(1.0 - p.beta1);
  step.beta2 = static_cast<float>(p.beta2);
  step.rest2 = static_cast<float>(1.0 - p.beta2);
  step.step_size = static_cast<float>(p.learning_rate / (1.0 - std::pow(p.beta1, steps)));
  step.root = static_cast<float>(std::sqrt(1.0 - std::pow(p.beta2, steps)));
  step.root_reciprocal = 1.0f / step.root;
  step.eps = static_cast<float>(p.eps);
  step.gradient_scale = p.gradient_scale;
  step.block_size = p.block_size;
  step.block_shift = __builtin_ctz(static_cast<unsigned>(p.block_size));
  step.share = std::max(kLeastShare, p.block_size);
  return step;
}

Slot8 slot_of(const q4j_adamw_8bit_params& p, int32_t t) {
  Slot8 slot = {};
  slot.parameter = static_cast<float*>(p.parameters[t]);
  slot.gradient = static_cast<const float*>(p.gradients[t]);
  slot.codes[0] = static_cast<uint8_t*>(p.first_moment_codes[t]);
  slot.codes[1] = static_cast<uint8_t*>(p.second_moment_codes[t]);
  slot.absmax[0] = static_cast<float*>(p.first_moment_absmax[t]);
  slot.absmax[1] = static_cast<float*>(p.second_moment_absmax[t]);
  slot.length = p.lengths[t];
  slot.decay = static_cast<float>(1.0 - p.learning_rate * static_cast<double>(p.weight_decays[t]));
  return slot;
}

}  // namespace

q4j_status adamw_8bit(q4j_pack_context* context, const q4j_adamw_8bit_params* params) {
  const q4j_adamw_8bit_params& p = *params;
  AdamW8 arguments = {};
  arguments.step = step_of(p);
  if (context->rungs.adamw_8bit == 1) {
    for (int32_t t = 0; t < p.count; ++t) Q4J_RETURN_IF_ERROR(adamw_8bit_1(*context, arguments.step, slot_of(p, t)));
    return Q4J_OK;
  }
  const int64_t tile = int64_t{arguments.step.share} * (kThreads8 / kWarp);
  const auto slot = [&](int32_t t) { return slot_of(p, t); };
  return for_each_list(p.count, p.lengths, tile, &arguments, slot, [&](bool) { return adamw_8bit_2(*context, arguments); });
}

}  // namespace q4j::cuda
