// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** AdamW (Loshchilov, Hutter 2019) over many tensors, and the norm of their gradients. */
#include <algorithm>
#include <cmath>

#include "quant.h"
#include "reference.h"

namespace q4j::reference {

q4j_status gradient_norm(q4j_pack_context*, const q4j_gradient_norm_params* p) {
  double sum = 0.0;
  for (int32_t t = 0; t < p->count; ++t) {
    const float* g = static_cast<const float*>(p->tensors[t]);
    for (int64_t i = 0; i < p->lengths[t]; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  }
  *static_cast<double*>(p->result) = std::sqrt(sum);
  return Q4J_OK;
}

/** f64 inside; each moment and the parameter are rounded once per step, and the parameter's step uses the rounded moments. */
q4j_status adamw(q4j_pack_context*, const q4j_adamw_params* p) {
  const double steps = static_cast<double>(p->t);
  const double step_size = p->learning_rate / (1.0 - std::pow(p->beta1, steps));
  const double correction2 = std::sqrt(1.0 - std::pow(p->beta2, steps));
  for (int32_t t = 0; t < p->count; ++t) {
    float* parameter = static_cast<float*>(p->parameters[t]);
    const float* gradient = static_cast<const float*>(p->gradients[t]);
    float* first = static_cast<float*>(p->first_moments[t]);
    float* second = static_cast<float*>(p->second_moments[t]);
    const double decay = 1.0 - p->learning_rate * static_cast<double>(p->weight_decays[t]);
    for (int64_t i = 0; i < p->lengths[t]; ++i) {
      const double g = static_cast<double>(gradient[i]) * static_cast<double>(p->gradient_scale);
      first[i] = static_cast<float>(p->beta1 * static_cast<double>(first[i]) + (1.0 - p->beta1) * g);
      second[i] = static_cast<float>(p->beta2 * static_cast<double>(second[i]) + (1.0 - p->beta2) * g * g);
      const double denominator = std::sqrt(static_cast<double>(second[i])) / correction2 + p->eps;
      parameter[i] = static_cast<float>(static_cast<double>(parameter[i]) * decay -
                                        step_size * static_cast<double>(first[i]) / denominator);
    }
  }
  return Q4J_OK;
}

namespace {

/** The moments of one tensor's block, as they are stored. */
struct BlockCodes {
  uint8_t* codes;
  float* absmax;
};

/** Codes the new moments of a block; NaN does not count towards the absmax and gets code 0. */
void store_block(const BlockCodes& block, const std::array<float, 255>& thresholds, const float* moments, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) largest = std::fabs(moments[i]) > largest ? std::fabs(moments[i]) : largest;
  for (int64_t i = 0; i < n; ++i) {
    block.codes[i] = std::isnan(moments[i]) ? uint8_t{0} : code_8bit_of_block(thresholds, moments[i], largest);
  }
  *block.absmax = largest;
}

}  // namespace

/** In f32 with every operation rounded, as the ABI prescribes: this operator's codes are to be equal in all packs. */
q4j_status adamw_8bit(q4j_pack_context*, const q4j_adamw_8bit_params* p) {
  constexpr int64_t largest_block = 4096;
  const double steps = static_cast<double>(p->t);
  const float step_size = static_cast<float>(p->learning_rate / (1.0 - std::pow(p->beta1, steps)));
  const float root = static_cast<float>(std::sqrt(1.0 - std::pow(p->beta2, steps)));
  const float beta1 = static_cast<float>(p->beta1);
  const float beta2 = static_cast<float>(p->beta2);
  const float rest1 = static_cast<float>(1.0 - p->beta1);
  const float rest2 = static_cast<float>(1.0 - p->beta2);
  const float eps = static_cast<float>(p->eps);
  float first[largest_block];
  float second[largest_block];
  for (int32_t t = 0; t < p->count; ++t) {
    float* parameter = static_cast<float*>(p->parameters[t]);
    const float* gradient = static_cast<const float*>(p->gradients[t]);
    uint8_t* first_codes = static_cast<uint8_t*>(p->first_moment_codes[t]);
    uint8_t* second_codes = static_cast<uint8_t*>(p->second_moment_codes[t]);
    float* first_absmax = static_cast<float*>(p->first_moment_absmax[t]);
    float* second_absmax = static_cast<float*>(p->second_moment_absmax[t]);
    const float decay = static_cast<float>(1.0 - p->learning_rate * static_cast<double>(p->weight_decays[t]));
    for (int64_t from = 0; from < p->lengths[t]; from += p->block_size) {
      const int64_t n = std::min<int64_t>(p->block_size, p->lengths[t] - from);
      const int64_t block = from / p->block_size;
      for (int64_t i = 0; i < n; ++i) {
        const float g = gradient[from + i] * p->gradient_scale;
        const float m = dynamic_signed_map[first_codes[from + i]] * first_absmax[block];
        const float v = dynamic_unsigned_map[second_codes[from + i]] * second_absmax[block];
        first[i] = beta1 * m + rest1 * g;
        second[i] = beta2 * v + rest2 * (g * g);
        const float denominator = std::sqrt(second[i]) / root + eps;
        parameter[from + i] = parameter[from + i] * decay - step_size * (first[i] / denominator);
      }
      store_block({first_codes + from, first_absmax + block}, dynamic_signed_thresholds, first, n);
      store_block({second_codes + from, second_absmax + block}, dynamic_unsigned_thresholds, second, n);
    }
  }
  return Q4J_OK;
}

}  // namespace q4j::reference
