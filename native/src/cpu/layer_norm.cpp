// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * LayerNorm with a residual addition in front. The variance is summed around the mean in a second sweep over the row, which is
 * in the first-level cache by then; the one-sweep formula loses all digits where the mean is large.
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
void forward_row(const q4j_layer_norm_forward_params& p, int64_t row) {
  const int64_t n = p.n;
  const T* x = static_cast<const T*>(p.x) + row * n;
  const T* residual = p.residual == nullptr ? nullptr : static_cast<const T*>(p.residual) + row * n;
  const W* weight = static_cast<const W*>(p.weight);
  const W* bias = static_cast<const W*>(p.bias);
  T* sum = p.sum == nullptr ? nullptr : static_cast<T*>(p.sum) + row * n;
  T* y = static_cast<T*>(p.y) + row * n;

  Vec total = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec u = load_first(x + i, n - i);
    if (residual != nullptr) u = rounded_to<T>(u + load_first(residual + i, n - i));
    if (sum != nullptr) store_first(sum + i, u, n - i);
    total += u;
  }
  // `sum` may be x or residual, which then hold u already.
  const auto u_at = [&](int64_t i) {
    if (sum != nullptr) return load_first(sum + i, n - i);
    const Vec u = load_first(x + i, n - i);
    return residual == nullptr ? u : rounded_to<T>(u + load_first(residual + i, n - i));
  };
  const float mean = reduce_add(total) / static_cast<float>(n);
  const Vec centre = broadcast(mean);
  Vec squares = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec d = u_at(i) - centre;
    if (n - i < kLanes) d = select(first_lanes(n - i), d, zero());
    squares = fma(d, d, squares);
  }
  const float rstd = 1.0f / std::sqrt(reduce_add(squares) / static_cast<float>(n) + p.eps);
  if (p.mean != nullptr) static_cast<float*>(p.mean)[row] = mean;
  if (p.rstd != nullptr) static_cast<float*>(p.rstd)[row] = rstd;

  const Vec scale = broadcast(rstd);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec xhat = (u_at(i) - centre) * scale;
    const Vec w = load_first(weight + i, n - i);
    const Vec b = bias == nullptr ? zero() : load_first(bias + i, n - i);
    store_first(y + i, fma(xhat, w, b), n - i);
  }
}

template <class T, class W>
void backward_row(const q4j_layer_norm_backward_params& p, int64_t row, float* dweight, float* dbias) {
  const int64_t n = p.n;
  const T* u = static_cast<const T*>(p.u) + row * n;
  const T* dy = static_cast<const T*>(p.dy) + row * n;
  const T* dresidual = p.dresidual == nullptr ? nullptr : static_cast<const T*>(p.dresidual) + row * n;
  const W* weight = static_cast<const W*>(p.weight);
  T* dx = static_cast<T*>(p.dx) + row * n;
  const Vec centre = broadcast(static_cast<const float*>(p.mean)[row]);
  const Vec scale = broadcast(static_cast<const float*>(p.rstd)[row]);

  // With xhat = (u - mean) * rstd and g = dy * w: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)). In the tail g is zero.
  Vec sum_g = zero();
  Vec sum_gx = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec xhat = (load_first(u + i, n - i) - centre) * scale;
    const Vec d = load_first(dy + i, n - i);
    const Vec g = d * load_first(weight + i, n - i);
    sum_g += g;
    sum_gx = n - i < kLanes ? fma(g, select(first_lanes(n - i), xhat, zero()), sum_gx) : fma(g, xhat, sum_gx);
    if (dweight != nullptr) store_first(dweight + i, fma(d, xhat, load_first(dweight + i, n - i)), n - i);
    if (dbias != nullptr) store_first(dbias + i, load_first(dbias + i, n - i) + d, n - i);
  }
  const Vec mean_g = broadcast(reduce_add(sum_g) / static_cast<float>(n));
  const Vec mean_gx = broadcast(reduce_add(sum_gx) / static_cast<float>(n));
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec xhat = (load_first(u + i, n - i) - centre) * scale;
    const Vec g = load_first(dy + i, n - i) * load_first(weight + i, n - i);
    Vec result = scale * fnma(xhat, mean_gx, g - mean_g);
    if (dresidual != nullptr) result += load_first(dresidual + i, n - i);
    store_first(dx + i, result, n - i);
  }
}

}  // namespace

q4j_status layer_norm_forward(q4j_pack_context* context, const q4j_layer_norm_forward_params* params) {
  const q4j_layer_norm_forward_params& p = *params;
  const bool known = with_norm_types(p.dtype, p.weight_dtype, [&](auto* element, auto* weight) {
    using T = std::remove_pointer_t<decltype(element)>;
    using W = std::remove_pointer_t<decltype(weight)>;
    context->pool.parallel_pieces(p.m, rows_per_piece(p.n), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) forward_row<T, W>(p, row);
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "layer_norm_forward: dtype %s with weight_dtype %s", dtype_name(p.dtype),
              dtype_name(p.weight_dtype));
  return Q4J_OK;
}

q4j_status layer_norm_backward_workspace_size(q4j_pack_context*, const q4j_layer_norm_backward_params* params, int64_t* bytes) {
  const int64_t sums = (params->dweight != nullptr ? 1 : 0) + (params->dbias != nullptr ? 1 : 0);
  *bytes = sums * RowGroups(params->m).count * params->n * static_cast<int64_t>(sizeof(float));
  return Q4J_OK;
}

q4j_status layer_norm_backward(q4j_pack_context* context, const q4j_layer_norm_backward_params* params) {
  const q4j_layer_norm_backward_params& p = *params;
  const RowGroups groups(p.m);
  float* next = static_cast<float*>(p.workspace);
  float* weight_sums = p.dweight == nullptr ? nullptr : next;
  if (weight_sums != nullptr) next += groups.count * p.n;
  float* bias_sums = p.dbias == nullptr ? nullptr : next;
  const bool known = with_norm_types(p.dtype, p.weight_dtype, [&](auto* element, auto* weight) {
    using T = std::remove_pointer_t<decltype(element)>;
    using W = std::remove_pointer_t<decltype(weight)>;
    context->pool.parallel_for(groups.count, [&](int64_t group, int) {
      float* dweight = weight_sums == nullptr ? nullptr : weight_sums + group * p.n;
      float* dbias = bias_sums == nullptr ? nullptr : bias_sums + group * p.n;
      if (dweight != nullptr) std::memset(dweight, 0, static_cast<size_t>(p.n) * sizeof(float));
      if (dbias != nullptr) std::memset(dbias, 0, static_cast<size_t>(p.n) * sizeof(float));
      for (int64_t row = groups.begin(group); row < groups.end(group); ++row) backward_row<T, W>(p, row, dweight, dbias);
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "layer_norm_backward: dtype %s with weight_dtype %s", dtype_name(p.dtype),
              dtype_name(p.weight_dtype));
  if (weight_sums != nullptr) add_group_sums(context->pool, weight_sums, groups.count, p.n, static_cast<float*>(p.dweight));
  if (bias_sums != nullptr) add_group_sums(context->pool, bias_sums, groups.count, p.n, static_cast<float*>(p.dbias));
  return Q4J_OK;
}

}  // namespace q4j::cpu
