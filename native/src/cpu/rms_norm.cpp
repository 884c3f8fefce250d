// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * RMSNorm with a residual addition in front. Rows are independent; the weight gradient is summed over fixed groups of rows, so
 * it does not depend on the number of threads. Bound by memory: a row stays in the first-level cache between the two sweeps
 * over it.
 */
#include <cmath>

#include "cpu_operators.h"
#include "error.h"
#include "norm.h"
#include "pack_context.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

template <class T, class W>
void forward_row(const q4j_rms_norm_forward_params& p, int64_t row) {
  const int64_t n = p.n;
  const T* x = static_cast<const T*>(p.x) + row * n;
  const T* residual = p.residual == nullptr ? nullptr : static_cast<const T*>(p.residual) + row * n;
  const W* weight = static_cast<const W*>(p.weight);
  T* sum = p.sum == nullptr ? nullptr : static_cast<T*>(p.sum) + row * n;
  T* y = static_cast<T*>(p.y) + row * n;

  const auto u_at = [&](int64_t i) {
    const Vec u = load_first(x + i, n - i);
    return residual == nullptr ? u : rounded_to<T>(u + load_first(residual + i, n - i));
  };
  Vec squares[2] = {zero(), zero()};
  for (int64_t i = 0, odd = 0; i < n; i += kLanes, odd ^= 1) {
    const Vec u = u_at(i);
    if (sum != nullptr) store_first(sum + i, u, n - i);
    squares[odd] = fma(u, u, squares[odd]);
  }
  const float rstd = 1.0f / std::sqrt(reduce_add(squares[0] + squares[1]) / static_cast<float>(n) + p.eps);
  if (p.rstd != nullptr) static_cast<float*>(p.rstd)[row] = rstd;

  const Vec scale = broadcast(rstd);
  const Vec one = broadcast(1.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    // `sum` may be x or residual, which then hold u already.
    const Vec u = sum != nullptr ? load_first(sum + i, n - i) : u_at(i);
    const Vec w = load_first(weight + i, n - i);
    const Vec normalised = u * scale;
    const Vec result = p.unit_offset != 0 ? (one + w) * normalised : w * rounded_to<T>(normalised);
    store_first(y + i, result, n - i);
  }
}

template <class T, class W>
void backward_row(const q4j_rms_norm_backward_params& p, int64_t row, float* dweight) {
  const int64_t n = p.n;
  const T* u = static_cast<const T*>(p.u) + row * n;
  const T* dy = static_cast<const T*>(p.dy) + row * n;
  const T* dresidual = p.dresidual == nullptr ? nullptr : static_cast<const T*>(p.dresidual) + row * n;
  const W* weight = static_cast<const W*>(p.weight);
  T* dx = static_cast<T*>(p.dx) + row * n;
  const float rstd = static_cast<const float*>(p.rstd)[row];
  const Vec scale = broadcast(rstd);
  const Vec offset = broadcast(p.unit_offset != 0 ? 1.0f : 0.0f);

  // With xhat = u * rstd and g = dy * w: dx = rstd * (g - xhat * mean(g * xhat)).
  Vec products[2] = {zero(), zero()};
  for (int64_t i = 0, odd = 0; i < n; i += kLanes, odd ^= 1) {
    const Vec xhat = load_first(u + i, n - i) * scale;
    const Vec d = load_first(dy + i, n - i);
    const Vec g = d * (offset + load_first(weight + i, n - i));
    products[odd] = fma(g, xhat, products[odd]);
    // The forward multiplies w by the rounded xhat unless the offset keeps it in f32.
    if (dweight != nullptr) {
      const Vec factor = p.unit_offset != 0 ? xhat : rounded_to<T>(xhat);
      store_first(dweight + i, fma(d, factor, load_first(dweight + i, n - i)), n - i);
    }
  }
  const Vec mean = broadcast(reduce_add(products[0] + products[1]) / static_cast<float>(n));
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec xhat = load_first(u + i, n - i) * scale;
    const Vec g = load_first(dy + i, n - i) * (offset + load_first(weight + i, n - i));
    Vec result = scale * fnma(xhat, mean, g);
    if (dresidual != nullptr) result += load_first(dresidual + i, n - i);
    store_first(dx + i, result, n - i);
  }
}

}  // namespace

q4j_status rms_norm_forward(q4j_pack_context* context, const q4j_rms_norm_forward_params* params) {
  const q4j_rms_norm_forward_params& p = *params;
  const bool known = with_norm_types(p.dtype, p.weight_dtype, [&](auto* element, auto* weight) {
    using T = std::remove_pointer_t<decltype(element)>;
    using W = std::remove_pointer_t<decltype(weight)>;
    context->pool.parallel_pieces(p.m, rows_per_piece(p.n), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) forward_row<T, W>(p, row);
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "rms_norm_forward: dtype %s with weight_dtype %s", dtype_name(p.dtype),
              dtype_name(p.weight_dtype));
  return Q4J_OK;
}

q4j_status rms_norm_backward_workspace_size(q4j_pack_context*, const q4j_rms_norm_backward_params* params, int64_t* bytes) {
  *bytes = params->dweight == nullptr ? 0 : RowGroups(params->m).count * params->n * static_cast<int64_t>(sizeof(float));
  return Q4J_OK;
}

q4j_status rms_norm_backward(q4j_pack_context* context, const q4j_rms_norm_backward_params* params) {
  const q4j_rms_norm_backward_params& p = *params;
  const RowGroups groups(p.m);
  float* partial = p.dweight == nullptr ? nullptr : static_cast<float*>(p.workspace);
  const bool known = with_norm_types(p.dtype, p.weight_dtype, [&](auto* element, auto* weight) {
    using T = std::remove_pointer_t<decltype(element)>;
    using W = std::remove_pointer_t<decltype(weight)>;
    context->pool.parallel_for(groups.count, [&](int64_t group, int) {
      float* dweight = partial == nullptr ? nullptr : partial + group * p.n;
      if (dweight != nullptr) std::memset(dweight, 0, static_cast<size_t>(p.n) * sizeof(float));
      for (int64_t row = groups.begin(group); row < groups.end(group); ++row) backward_row<T, W>(p, row, dweight);
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "rms_norm_backward: dtype %s with weight_dtype %s", dtype_name(p.dtype),
              dtype_name(p.weight_dtype));
  if (partial != nullptr) add_group_sums(context->pool, partial, groups.count, p.n, static_cast<float*>(p.dweight));
  return Q4J_OK;
}

}  // namespace q4j::cpu
