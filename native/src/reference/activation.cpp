// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** SiLU and GELU, plain or gated (SwiGLU, GeGLU: Shazeer 2020). */
#include <cmath>

#include "reference.h"

namespace q4j::reference {

namespace {

constexpr double sqrt_half = 0.70710678118654752440;
constexpr double sqrt_2_over_pi = 0.79788456080286535588;
constexpr double inverse_sqrt_2_pi = 0.39894228040143267794;
constexpr double gelu_cubic = 0.044715;

struct ValueAndSlope {
  double value;
  double slope;
};

ValueAndSlope activate(int32_t activation, double x) {
  switch (activation) {
    case Q4J_ACTIVATION_GELU_ERF: {
      const double cdf = 0.5 * (1.0 + std::erf(x * sqrt_half));
      return {x * cdf, cdf + x * inverse_sqrt_2_pi * std::exp(-0.5 * x * x)};
    }
    case Q4J_ACTIVATION_GELU_TANH: {
      const double t = std::tanh(sqrt_2_over_pi * (x + gelu_cubic * x * x * x));
      const double inner = sqrt_2_over_pi * (1.0 + 3.0 * gelu_cubic * x * x);
      return {0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner};
    }
    default: {
      const double sigmoid = 1.0 / (1.0 + std::exp(-x));
      return {x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))};
    }
  }
}

}  // namespace

q4j_status activation_forward(q4j_pack_context*, const q4j_activation_forward_params* p) {
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    const T* x = static_cast<const T*>(p->x);
    const T* up = static_cast<const T*>(p->up);
    T* y = static_cast<T*>(p->y);
    for (int64_t i = 0; i < p->m; ++i) {
      for (int64_t j = 0; j < p->n; ++j) {
        const T act = rounded<T>(activate(p->activation, static_cast<double>(to_f32(x[i * p->ldx + j]))).value);
        y[i * p->n + j] = up == nullptr ? act : from_f32<T>(to_f32(act) * to_f32(up[i * p->ldup + j]));
      }
    }
  });
  return Q4J_OK;
}

/** Each gradient is rounded once; the forward's rounding of act(x) is not repeated. */
q4j_status activation_backward(q4j_pack_context*, const q4j_activation_backward_params* p) {
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    const T* x = static_cast<const T*>(p->x);
    const T* up = static_cast<const T*>(p->up);
    const T* dy = static_cast<const T*>(p->dy);
    T* dx = static_cast<T*>(p->dx);
    T* dup = static_cast<T*>(p->dup);
    for (int64_t i = 0; i < p->m; ++i) {
      for (int64_t j = 0; j < p->n; ++j) {
        const ValueAndSlope act = activate(p->activation, static_cast<double>(to_f32(x[i * p->ldx + j])));
        const double d = static_cast<double>(to_f32(dy[i * p->n + j]));
        const double gate = up == nullptr ? 1.0 : static_cast<double>(to_f32(up[i * p->ldup + j]));
        // Everything is read before anything is written: outputs may be the inputs' memory.
        dx[i * p->lddx + j] = rounded<T>(d * gate * act.slope);
        if (up != nullptr) dup[i * p->lddup + j] = rounded<T>(d * act.value);
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
