// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** y = x W^T + bias + s xa b^T + residual, its gradient to x, and the weight gradient of a linear that is trained itself. */
#include <cmath>
#include <cstring>

#include "matrix.h"

namespace q4j::reference {

namespace {

/** A row of x in LLM.int8's codes: widened to double, which holds every code and every sum of products exactly. */
struct Int8Row {
  double absmax;

  Int8Row(const float* x, int64_t n, float* codes) {
    float largest = 0.0f;
    for (int64_t c = 0; c < n; ++c) largest = absmax_of(largest, x[c]);
    const float scale = 127.0f / largest;
    for (int64_t c = 0; c < n; ++c) {
      const float scaled = x[c] * scale;
      codes[c] = std::fabs(scaled) <= 127.5f ? std::nearbyint(scaled) : 0.0f;  // NaN: a row of zeros, or a NaN in it
    }
    absmax = static_cast<double>(largest);
  }
};

/** Whether the codes of x and W are multiplied, rather than their values. */
bool multiplies_codes(const q4j_linear_forward_params& p) { return p.weight->format == Q4J_WEIGHT_INT8 && p.dtype == Q4J_BF16; }

}  // namespace

q4j_status linear_forward_workspace_size(q4j_pack_context*, const q4j_linear_forward_params* p, int64_t* bytes) {
  Scratch scratch(nullptr);
  scratch.take<float>(p->m * p->weight->cols);           // x, widened
  scratch.take<float>(p->weight->cols);                  // one row of W, or of x after dropout
  if (multiplies_codes(*p)) scratch.take<double>(p->m);  // absmax of x's rows
  *bytes = scratch.used();
  return Q4J_OK;
}

q4j_status linear_forward(q4j_pack_context*, const q4j_linear_forward_params* p) {
  const int64_t n = p->weight->rows;
  const int64_t k = p->weight->cols;
  Scratch scratch(p->workspace);
  float* x = scratch.take<float>(p->m * k);
  float* row = scratch.take<float>(k);
  widen(p->x, p->dtype, p->m, k, p->ldx, x);

  const q4j_weight weight = canonical(*p->weight);
  const q4j_lora* lora = has_branch(p->lora) ? p->lora : nullptr;
  const int64_t rank = lora != nullptr ? lora->rank : 0;
  const bool rounds = lora != nullptr && rounds_to_bf16(*lora, p->dtype);
  float* xa = static_cast<float*>(p->xa);
  for (int64_t i = 0; i < p->m && lora != nullptr; ++i) {
    std::memcpy(row, x + i * k, static_cast<std::size_t>(k) * sizeof(float));
    mask_row(lora->dropout, i, k, row);
    for (int64_t r = 0; r < rank; ++r) {
      double sum = 0.0;
      for (int64_t c = 0; c < k; ++c)
        sum += static_cast<double>(row[c]) * static_cast<double>(lora_factor(lora->a, r * k + c, rounds));
      const float value = static_cast<float>(dropout_factor(lora->dropout) * sum);
      xa[i * rank + r] = rounds ? round_to_bf16(value) : value;
    }
  }

  if (p->y == nullptr) return Q4J_OK;
  const bool codes = multiplies_codes(*p);
  double* x_absmax = codes ? scratch.take<double>(p->m) : nullptr;
  for (int64_t i = 0; i < p->m && codes; ++i)
    x_absmax[i] = Int8Row(x + i * k, k, x + i * k).absmax;  // the branch is done with x
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    T* y = static_cast<T*>(p->y);
    const T* residual = static_cast<const T*>(p->residual);
    for (int64_t j = 0; j < n; ++j) {
      double w_absmax = 0.0;
      if (codes) {
        for (int64_t c = 0; c < k; ++c) row[c] = static_cast<float>(static_cast<const int8_t*>(weight.data)[j * k + c]);
        w_absmax = static_cast<double>(static_cast<const float*>(weight.absmax)[j]);
      } else {
        load_weight_row(weight, p->dtype, j, row);
      }
      const double bias = p->bias == nullptr ? 0.0 : static_cast<double>(load(p->bias, p->bias_dtype, j));
      for (int64_t i = 0; i < p->m; ++i) {
        double sum = dot(x + i * k, row, k);
        if (codes) sum *= x_absmax[i] * w_absmax / (127.0 * 127.0);
        sum += bias;
        double branch = 0.0;
        for (int64_t r = 0; r < rank; ++r) {
          branch += static_cast<double>(xa[i * rank + r]) * static_cast<double>(lora_factor(lora->b, j * rank + r, rounds));
        }
        if (lora != nullptr) sum += static_cast<double>(lora->s) * branch;
        if (residual != nullptr) sum += static_cast<double>(to_f32(residual[i * p->ldr + j]));
        y[i * p->ldy + j] = rounded<T>(sum);
      }
    }
  });
  return Q4J_OK;
}

q4j_status linear_backward_input_workspace_size(q4j_pack_context*, const q4j_linear_backward_input_params* p, int64_t* bytes) {
  Scratch scratch(nullptr);
  scratch.take<float>(p->m * p->n);   // dy, widened
  scratch.take<double>(p->m * p->k);  // dx, in f64
  scratch.take<float>(p->k);          // one row of W
  scratch.take<double>(p->k);         // one row of dyb a
  *bytes = scratch.used();
  return Q4J_OK;
}

q4j_status linear_backward_input(q4j_pack_context*, const q4j_linear_backward_input_params* p) {
  Scratch scratch(p->workspace);
  float* dy = scratch.take<float>(p->m * p->n);
  double* sum = scratch.take<double>(p->m * p->k);
  float* row = scratch.take<float>(p->k);
  double* branch = scratch.take<double>(p->k);
  widen(p->dy, p->dtype, p->m, p->n, p->lddy, dy);

  const q4j_lora* lora = has_branch(p->lora) ? p->lora : nullptr;
  const int64_t rank = lora != nullptr ? lora->rank : 0;
  const bool rounds = lora != nullptr && rounds_to_bf16(*lora, p->dtype);
  float* dyb = static_cast<float*>(p->dyb);
  for (int64_t i = 0; i < p->m; ++i) {
    for (int64_t r = 0; r < rank; ++r) {
      double value = 0.0;
      for (int64_t j = 0; j < p->n; ++j) {
        value += static_cast<double>(dy[i * p->n + j]) * static_cast<double>(lora_factor(lora->b, j * rank + r, rounds));
      }
      dyb[i * rank + r] = rounds ? round_to_bf16(static_cast<float>(value)) : static_cast<float>(value);
    }
  }
  if (p->dx == nullptr) return Q4J_OK;

  const q4j_weight weight = canonical(*p->weight);
  for (int64_t i = 0; i < p->m * p->k; ++i) sum[i] = 0.0;
  for (int64_t j = 0; j < p->n; ++j) {
    load_weight_row(weight, p->dtype, j, row);
    for (int64_t i = 0; i < p->m; ++i) add_scaled(sum + i * p->k, static_cast<double>(dy[i * p->n + j]), row, p->k);
  }
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    T* dx = static_cast<T*>(p->dx);
    for (int64_t i = 0; i < p->m; ++i) {
      if (lora != nullptr) {
        for (int64_t c = 0; c < p->k; ++c) {
          branch[c] = 0.0;
          row[c] = 1.0f;
        }
        mask_row(lora->dropout, i, p->k, row);
        for (int64_t r = 0; r < rank; ++r) {
          const double factor = static_cast<double>(dyb[i * rank + r]);
          for (int64_t c = 0; c < p->k; ++c)
            branch[c] += factor * static_cast<double>(lora_factor(lora->a, r * p->k + c, rounds));
        }
        const double scale = static_cast<double>(lora->s) * dropout_factor(lora->dropout);
        for (int64_t c = 0; c < p->k; ++c) {
          if (row[c] != 0.0f) sum[i * p->k + c] += scale * branch[c];
        }
      }
      for (int64_t c = 0; c < p->k; ++c) {
        T& target = dx[i * p->lddx + c];
        const double before = p->accumulate != 0 ? static_cast<double>(to_f32(target)) : 0.0;
        target = rounded<T>(before + sum[i * p->k + c]);
      }
    }
  });
  return Q4J_OK;
}

q4j_status linear_weight_gradient_workspace_size(q4j_pack_context*, const q4j_linear_weight_gradient_params* p,
                                                 int64_t* bytes) {
  Scratch scratch(nullptr);
  scratch.take<float>(p->m * p->k);  // x, widened
  scratch.take<double>(p->k);        // one row of dw
  *bytes = scratch.used();
  return Q4J_OK;
}

q4j_status linear_weight_gradient(q4j_pack_context*, const q4j_linear_weight_gradient_params* p) {
  Scratch scratch(p->workspace);
  float* x = scratch.take<float>(p->m * p->k);
  double* row = scratch.take<double>(p->k);
  float* dw = static_cast<float*>(p->dw);
  float* dbias = static_cast<float*>(p->dbias);
  if (dw != nullptr) widen(p->x, p->dtype, p->m, p->k, p->ldx, x);
  with_type(p->dtype, [&](auto type) {
    const auto* dy = static_cast<const decltype(type)*>(p->dy);
    for (int64_t j = 0; j < p->n; ++j) {
      double bias = 0.0;
      for (int64_t c = 0; c < p->k; ++c) row[c] = 0.0;
      for (int64_t i = 0; i < p->m; ++i) {
        const double d = static_cast<double>(to_f32(dy[i * p->lddy + j]));
        bias += d;
        if (dw != nullptr) add_scaled(row, d, x + i * p->k, p->k);
      }
      if (dbias != nullptr) dbias[j] = static_cast<float>(static_cast<double>(dbias[j]) + bias);
      for (int64_t c = 0; c < p->k && dw != nullptr; ++c) {
        dw[j * p->k + c] = static_cast<float>(static_cast<double>(dw[j * p->k + c]) + row[c]);
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
