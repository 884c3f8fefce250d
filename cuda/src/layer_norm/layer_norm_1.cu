// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one block per row. */
#include "layer_norm/layer_norm.h"
#include "layer_norm/statistics.h"
#include "support/dispatch.h"
#include "support/launch.h"
#include "support/reduce.h"
#include "support/vectors.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

template <typename T>
Q4J_KERNEL(kThreads, 4)
layer_norm_forward_1_rows(const LayerNormForward f) {
  RowReduction<Sum, 1> reduce(kThreads);
  RowReduction<Sum, 2> reduce_two(kThreads);
  for (int64_t row = block_index(); row < f.m; row += grid_blocks()) {
    const T* x = static_cast<const T*>(f.x) + row * f.n;
    const T* residual = f.residual == nullptr ? nullptr : static_cast<const T*>(f.residual) + row * f.n;
    T* sum = f.sum == nullptr ? nullptr : static_cast<T*>(f.sum) + row * f.n;
    T* y = static_cast<T*>(f.y) + row * f.n;
    float total[1] = {0.0f};
    for (int64_t j = thread_index(); j < f.n; j += kThreads) {
      const float u = residual == nullptr ? widen(x[j]) : rounded<T>(widen(x[j]) + widen(residual[j]));
      // u waits in y for its next uses: x and residual may be overwritten by now.
      y[j] = narrow<T>(u);
      if (sum != nullptr) sum[j] = narrow<T>(u);
      total[0] += u;
    }
    reduce(total);
    const float mean = total[0] / static_cast<float>(f.n);
    float moments[2] = {0.0f, 0.0f};
    for (int64_t j = thread_index(); j < f.n; j += kThreads) {
      const float d = widen(y[j]) - mean;
      moments[0] += d;
      moments[1] += d * d;
    }
    reduce_two(moments);
    const RowStatistics statistics = row_statistics(mean, moments[0], moments[1], f.n, f.eps);
    if (thread_index() == 0) {
      if (f.mean != nullptr) f.mean[row] = statistics.mean + statistics.rest;
      if (f.rstd != nullptr) f.rstd[row] = statistics.rstd;
    }
    for (int64_t j = thread_index(); j < f.n; j += kThreads) {
      const float w = load_float(f.weight, f.weight_bf16, j);
      const float b = f.bias == nullptr ? 0.0f : load_float(f.bias, f.weight_bf16, j);
      y[j] = narrow<T>(statistics.normalize(widen(y[j])) * w + b);
    }
  }
}

template <typename T>
Q4J_KERNEL(kThreads, 4)
layer_norm_backward_1_rows(const LayerNormBackward b) {
  RowReduction<Sum, 2> reduce(kThreads);
  for (int64_t row = block_index(); row < b.m; row += grid_blocks()) {
    const T* u = static_cast<const T*>(b.u) + row * b.n;
    const T* dy = static_cast<const T*>(b.dy) + row * b.n;
    const T* dresidual = b.dresidual == nullptr ? nullptr : static_cast<const T*>(b.dresidual) + row * b.n;
    T* dx = static_cast<T*>(b.dx) + row * b.n;
    const float mean = b.mean[row];
    const float rstd = b.rstd[row];
    float sums[2] = {0.0f, 0.0f};
    for (int64_t j = thread_index(); j < b.n; j += kThreads) {
      const float g = multiply(widen(dy[j]), load_float(b.weight, b.weight_bf16, j));
      sums[0] += g;
      sums[1] += g * ((widen(u[j]) - mean) * rstd);
    }
    reduce(sums);
    const float mean_g = sums[0] / static_cast<float>(b.n);
    const float mean_gh = sums[1] / static_cast<float>(b.n);
    for (int64_t j = thread_index(); j < b.n; j += kThreads) {
      const float g = multiply(widen(dy[j]), load_float(b.weight, b.weight_bf16, j));
      const float h = (widen(u[j]) - mean) * rstd;
      const float d = rstd * (g - mean_g - h * mean_gh);
      dx[j] = narrow<T>(dresidual == nullptr ? d : d + widen(dresidual[j]));
    }
  }
}

/** One thread per column and chunk of rows. */
template <typename T>
Q4J_KERNEL(kThreads, 4)
layer_norm_backward_1_columns(const LayerNormBackward b) {
  const int64_t chunks = (b.m + b.chunk_rows - 1) / b.chunk_rows;
  const int64_t tiles = (b.n + kThreads - 1) / kThreads;
  for (int64_t item = block_index(); item < chunks * tiles; item += grid_blocks()) {
    const int64_t chunk = item / tiles;
    const int64_t column = (item - chunk * tiles) * kThreads + thread_index();
    if (column >= b.n) continue;
    const int64_t first = chunk * b.chunk_rows;
    const int64_t end = first + b.chunk_rows < b.m ? first + b.chunk_rows : b.m;
    float dweight = 0.0f;
    float dbias = 0.0f;
    for (int64_t row = first; row < end; ++row) {
      const float d = widen(static_cast<const T*>(b.dy)[row * b.n + column]);
      dweight += d * ((widen(static_cast<const T*>(b.u)[row * b.n + column]) - b.mean[row]) * b.rstd[row]);
      dbias += d;
    }
    if (b.weight_partial != nullptr) b.weight_partial[chunk * b.partial_step + column] = dweight;
    if (b.bias_partial != nullptr) b.bias_partial[chunk * b.partial_step + column] = dbias;
  }
}

}  // namespace

q4j_status layer_norm_forward_1(const q4j_pack_context& context, const LayerNormForward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const Grid grid = {blocks_for(arguments.m, 1), kThreads};
    return launch(context, grid, "layer_norm_forward_1_rows", layer_norm_forward_1_rows<T>, arguments);
  });
}

q4j_status layer_norm_backward_1(const q4j_pack_context& context, const LayerNormBackward& arguments) {
  Q4J_RETURN_IF_ERROR(with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const Grid grid = {blocks_for(arguments.m, 1), kThreads};
    return launch(context, grid, "layer_norm_backward_1_rows", layer_norm_backward_1_rows<T>, arguments);
  }));
  return arguments.has_sums() ? layer_norm_sums_1(context, arguments) : Q4J_OK;
}

q4j_status layer_norm_sums_1(const q4j_pack_context& context, const LayerNormBackward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t chunks = (arguments.m + arguments.chunk_rows - 1) / arguments.chunk_rows;
    const int64_t tiles = (arguments.n + kThreads - 1) / kThreads;
    const Grid grid = {blocks_for(chunks * tiles, 1), kThreads};
    return launch(context, grid, "layer_norm_backward_1_columns", layer_norm_backward_1_columns<T>, arguments);
  });
}

}  // namespace q4j::cuda
