// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rotary position embedding (Su et al. 2021) in the half-split pairing of Hugging Face's models. */
#include <cmath>

#include "reference.h"

namespace q4j::reference {

q4j_status rotary(q4j_pack_context*, const q4j_rotary_params* p) {
  const int32_t half = p->rotary_dim / 2;
  const int32_t* positions = static_cast<const int32_t*>(p->positions);
  const float* frequencies = static_cast<const float*>(p->inverse_frequencies);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    T* x = static_cast<T*>(p->x);
    for (int64_t t = 0; t < p->tokens; ++t) {
      for (int32_t i = 0; i < half; ++i) {
        // The angle is an f32 product on purpose: at position 8191 its rounding is what the trained models saw.
        const float angle = static_cast<float>(positions[t]) * frequencies[i];
        const float cosine = static_cast<float>(std::cos(static_cast<double>(angle))) * p->attention_scale;
        const float sine = static_cast<float>(std::sin(static_cast<double>(angle))) * p->attention_scale;
        const double c = static_cast<double>(to_f32(from_f32<T>(cosine)));
        const double s = static_cast<double>(to_f32(from_f32<T>(sine))) * (p->inverse != 0 ? -1.0 : 1.0);
        for (int64_t h = 0; h < p->heads; ++h) {
          T& low = x[t * p->token_stride + h * p->head_stride + i];
          T& high = x[t * p->token_stride + h * p->head_stride + i + half];
          const double a = static_cast<double>(to_f32(low));
          const double b = static_cast<double>(to_f32(high));
          low = rounded<T>(a * c - b * s);
          high = rounded<T>(b * c + a * s);
        }
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
