// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** LayerNorm (Ba, Kiros, Hinton 2016) with residual add. */
#include <cmath>

#include "reference.h"

namespace q4j::reference {

q4j_status layer_norm_forward(q4j_pack_context*, const q4j_layer_norm_forward_params* p) {
  const double n = static_cast<double>(p->n);
  float* mean = static_cast<float*>(p->mean);
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
      double total = 0.0;
      for (int64_t j = first; j < first + p->n; ++j) {
        const T u = residual == nullptr ? x[j] : from_f32<T>(to_f32(x[j]) + to_f32(residual[j]));
        y[j] = u;
        total += static_cast<double>(to_f32(u));
      }
      const double center = total / n;
      double squares = 0.0;
      for (int64_t j = first; j < first + p->n; ++j) {
        const double d = static_cast<double>(to_f32(y[j])) - center;
        squares += d * d;
      }
      const double scale = 1.0 / std::sqrt(squares / n + static_cast<double>(p->eps));
      if (mean != nullptr) mean[i] = static_cast<float>(center);
      if (rstd != nullptr) rstd[i] = static_cast<float>(scale);
      for (int64_t j = 0; j < p->n; ++j) {
        const T u = y[first + j];
        if (sum != nullptr) sum[first + j] = u;
        const double w = static_cast<double>(load(p->weight, p->weight_dtype, j));
        const double b = p->bias == nullptr ? 0.0 : static_cast<double>(load(p->bias, p->weight_dtype, j));
        y[first + j] = rounded<T>((static_cast<double>(to_f32(u)) - center) * scale * w + b);
      }
    }
  });
  return Q4J_OK;
}

q4j_status layer_norm_backward_workspace_size(q4j_pack_context*, const q4j_layer_norm_backward_params* p, int64_t* bytes) {
  Scratch scratch(nullptr);
  scratch.take<double>(p->n);  // dweight, in f64
  scratch.take<double>(p->n);  // dbias, in f64
  *bytes = scratch.used();
  return Q4J_OK;
}

/** With h = (u - mean) * rstd and g = dy * w:  du = rstd * (g - mean(g) - h * mean(g * h)),  dw = sum dy * h,  db = sum dy. */
q4j_status layer_norm_backward(q4j_pack_context*, const q4j_layer_norm_backward_params* p) {
  Scratch scratch(p->workspace);
  double* dweight_sum = scratch.take<double>(p->n);
  double* dbias_sum = scratch.take<double>(p->n);
  for (int64_t j = 0; j < p->n; ++j) dweight_sum[j] = dbias_sum[j] = 0.0;
  const double n = static_cast<double>(p->n);
  const float* mean = static_cast<const float*>(p->mean);
  const float* rstd = static_cast<const float*>(p->rstd);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0; i < p->m; ++i) {
      const T* u = static_cast<const T*>(p->u) + i * p->n;
      const T* dy = static_cast<const T*>(p->dy) + i * p->n;
      const T* dresidual = p->dresidual == nullptr ? nullptr : static_cast<const T*>(p->dresidual) + i * p->n;
      T* dx = static_cast<T*>(p->dx) + i * p->n;
      const double center = static_cast<double>(mean[i]);
      const double scale = static_cast<double>(rstd[i]);
      double average = 0.0;
      double projection = 0.0;
      for (int64_t j = 0; j < p->n; ++j) {
        const double h = (static_cast<double>(to_f32(u[j])) - center) * scale;
        const double d = static_cast<double>(to_f32(dy[j]));
        const double g = d * static_cast<double>(load(p->weight, p->weight_dtype, j));
        average += g;
        projection += g * h;
        dweight_sum[j] += d * h;
        dbias_sum[j] += d;
      }
      average /= n;
      projection /= n;
      for (int64_t j = 0; j < p->n; ++j) {
        const double h = (static_cast<double>(to_f32(u[j])) - center) * scale;
        const double g = static_cast<double>(to_f32(dy[j])) * static_cast<double>(load(p->weight, p->weight_dtype, j));
        double d = scale * (g - average - h * projection);
        if (dresidual != nullptr) d += static_cast<double>(to_f32(dresidual[j]));
        dx[j] = rounded<T>(d);
      }
    }
  });
  float* dweight = static_cast<float*>(p->dweight);
  float* dbias = static_cast<float*>(p->dbias);
  for (int64_t j = 0; j < p->n; ++j) {
    if (dweight != nullptr) dweight[j] = static_cast<float>(static_cast<double>(dweight[j]) + dweight_sum[j]);
    if (dbias != nullptr) dbias[j] = static_cast<float>(static_cast<double>(dbias[j]) + dbias_sum[j]);
  }
  return Q4J_OK;
}

}  // namespace q4j::reference
