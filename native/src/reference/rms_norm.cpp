// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** RMSNorm (Zhang, Sennrich 2019) with residual add, in Llama's and Gemma's rounding. */
#include <cmath>

#include "reference.h"

namespace q4j::reference {

q4j_status rms_norm_forward(q4j_pack_context*, const q4j_rms_norm_forward_params* p) {
  const double n = static_cast<double>(p->n);
  float* rstd = static_cast<float*>(p->rstd);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    const T* x = static_cast<const T*>(p->x);
    const T* residual = static_cast<const T*>(p->residual);
    T* sum = static_cast<T*>(p->sum);
    T* y = static_cast<T*>(p->y);
    for (int64_t i = 0; i < p->m; ++i) {
      const int64_t first = i * p->n;
      // u is kept in y until the row's statistics are known: it has y's type, and y overlaps no input.
      double squares = 0.0;
      for (int64_t j = first; j < first + p->n; ++j) {
        const T u = residual == nullptr ? x[j] : from_f32<T>(to_f32(x[j]) + to_f32(residual[j]));
        y[j] = u;
        squares += static_cast<double>(to_f32(u)) * static_cast<double>(to_f32(u));
      }
      const float scale = static_cast<float>(1.0 / std::sqrt(squares / n + static_cast<double>(p->eps)));
      if (rstd != nullptr) rstd[i] = scale;
      for (int64_t j = 0; j < p->n; ++j) {
        const T u = y[first + j];
        if (sum != nullptr) sum[first + j] = u;
        const float w = load(p->weight, p->weight_dtype, j);
        if (p->unit_offset != 0) {
          const double product = (1.0 + static_cast<double>(w)) * static_cast<double>(to_f32(u)) * static_cast<double>(scale);
          y[first + j] = rounded<T>(product);
        } else {
          const T normalized = from_f32<T>(to_f32(u) * scale);
          y[first + j] = from_f32<T>(w * to_f32(normalized));
        }
      }
    }
  });
  return Q4J_OK;
}

q4j_status rms_norm_backward_workspace_size(q4j_pack_context*, const q4j_rms_norm_backward_params* p, int64_t* bytes) {
  Scratch scratch(nullptr);
  scratch.take<double>(p->n);  // dweight, in f64
  *bytes = scratch.used();
  return Q4J_OK;
}

/**
 * With h = u * rstd and g = dy * w (or dy * (1 + w)):  du = rstd * (g - h * mean(g * h)),  dw = sum over rows of dy * h.
 * dw takes h as the forward multiplied it by w: rounded to `dtype` unless unit_offset. The rounding itself has no gradient.
 */
q4j_status rms_norm_backward(q4j_pack_context*, const q4j_rms_norm_backward_params* p) {
  Scratch scratch(p->workspace);
  double* dweight_sum = scratch.take<double>(p->n);
  for (int64_t j = 0; j < p->n; ++j) dweight_sum[j] = 0.0;
  const double offset = p->unit_offset != 0 ? 1.0 : 0.0;
  const float* rstd = static_cast<const float*>(p->rstd);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0; i < p->m; ++i) {
      const T* u = static_cast<const T*>(p->u) + i * p->n;
      const T* dy = static_cast<const T*>(p->dy) + i * p->n;
      const T* dresidual = p->dresidual == nullptr ? nullptr : static_cast<const T*>(p->dresidual) + i * p->n;
      T* dx = static_cast<T*>(p->dx) + i * p->n;
      const double scale = static_cast<double>(rstd[i]);
      double projection = 0.0;
      for (int64_t j = 0; j < p->n; ++j) {
        const double h = static_cast<double>(to_f32(u[j])) * scale;
        const double d = static_cast<double>(to_f32(dy[j]));
        projection += d * (static_cast<double>(load(p->weight, p->weight_dtype, j)) + offset) * h;
        const double factor = p->unit_offset != 0 ? h : static_cast<double>(to_f32(from_f32<T>(to_f32(u[j]) * rstd[i])));
        dweight_sum[j] += d * factor;
      }
      projection /= static_cast<double>(p->n);
      for (int64_t j = 0; j < p->n; ++j) {
        const double h = static_cast<double>(to_f32(u[j])) * scale;
        const double g =
            static_cast<double>(to_f32(dy[j])) * (static_cast<double>(load(p->weight, p->weight_dtype, j)) + offset);
        double d = scale * (g - h * projection);
        if (dresidual != nullptr) d += static_cast<double>(to_f32(dresidual[j]));
        dx[j] = rounded<T>(d);
      }
    }
  });
  float* dweight = static_cast<float*>(p->dweight);
  for (int64_t j = 0; j < p->n && dweight != nullptr; ++j) {
    dweight[j] = static_cast<float>(static_cast<double>(dweight[j]) + dweight_sum[j]);
  }
  return Q4J_OK;
}

}  // namespace q4j::reference
