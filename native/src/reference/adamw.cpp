// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** AdamW (Loshchilov, Hutter 2019) over many tensors, and the norm of their gradients. */
#include <cmath>

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

}  // namespace q4j::reference
