// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 2: every array is read and written once, in vectors; between the passes a row stays in registers. */
#include "layer_norm/layer_norm.h"
#include "layer_norm/statistics.h"
#include "support/dispatch.h"
#include "support/launch.h"
#include "support/norm.h"

namespace q4j::cuda {

namespace {

template <typename T>
Q4J_KERNEL(kMostRowThreads, 1)
layer_norm_forward_2_rows(const LayerNormForward f) {
  constexpr int kN = kPerVector<T>;
  RowReduction<Sum, 1> reduce(f.row_threads);
  RowReduction<Sum, 2> reduce_two(f.row_threads);
  const int rows_at_once = block_threads() / f.row_threads;
  const int64_t step = static_cast<int64_t>(grid_blocks()) * rows_at_once;
  for (int64_t first = static_cast<int64_t>(block_index()) * rows_at_once; first < f.m; first += step) {
    const int64_t row = first + thread_index() / f.row_threads;
    const int64_t from = row * f.n;
    const int n = row < f.m ? static_cast<int>(f.n) : 0;  // behind the last row a thread takes part in the sums alone
    const auto column = [&](int v) { return column_of<T>(v, f.row_threads); };
    Words4 u[kHeld];
    load_sum(static_cast<const T*>(f.x) + from, f.residual == nullptr ? nullptr : static_cast<const T*>(f.residual) + from,
             f.sum == nullptr ? nullptr : static_cast<T*>(f.sum) + from, n, f.row_threads, u);
    float total[1] = {0.0f};
    Q4J_UNROLL
    for (int v = 0; v < kHeld; ++v) {
      Q4J_UNROLL
      for (int i = 0; i < kN; ++i) total[0] += element<T>(u[v], i);
    }
    reduce(total);
    const float mean = total[0] / static_cast<float>(f.n);
    float moments[2] = {0.0f, 0.0f};
    Q4J_UNROLL
    for (int v = 0; v < kHeld; ++v) {
      if (column(v) >= n) continue;
      Q4J_UNROLL
      for (int i = 0; i < kN; ++i) {
        const float d = element<T>(u[v], i) - mean;
        moments[0] += d;
        moments[1] += d * d;
      }
    }
    reduce_two(moments);
    const RowStatistics statistics = row_statistics(mean, moments[0], moments[1], f.n, f.eps);
    if (thread_index() % f.row_threads == 0 && row < f.m) {
      if (f.mean != nullptr) f.mean[row] = statistics.mean + statistics.rest;
      if (f.rstd != nullptr) f.rstd[row] = statistics.rstd;
    }
    Q4J_UNROLL
    for (int v = 0; v < kHeld; ++v) {
      if (column(v) >= n) continue;
      float w[kN];
      float b[kN] = {};
      load_floats(f.weight, f.weight_bf16, column(v), w);
      if (f.bias != nullptr) load_floats(f.bias, f.weight_bf16, column(v), b);
      float y[kN];
      Q4J_UNROLL
      for (int i = 0; i < kN; ++i) y[i] = statistics.normalize(element<T>(u[v], i)) * w[i] + b[i];
      store_vector(static_cast<T*>(f.y) + from + column(v), y);
    }
  }
}

template <typename T, bool kSums>
Q4J_KERNEL(kSums ? kMostSumThreads : kMostRowThreads, 1)
layer_norm_backward_2_rows(const LayerNormBackward b) {
  constexpr int kN = kPerVector<T>;
  RowReduction<Sum, 2> reduce(b.row_threads);
  const int rows_at_once = block_threads() / b.row_threads;
  const auto column = [&](int v) { return column_of<T>(v, b.row_threads); };
  for (int64_t chunk = block_index(); chunk * b.chunk_rows < b.m; chunk += grid_blocks()) {
    const int64_t end = (chunk + 1) * b.chunk_rows < b.m ? (chunk + 1) * b.chunk_rows : b.m;
    float dweight[kHeld][kN] = {};
    float dbias[kHeld][kN] = {};
    for (int64_t first = chunk * b.chunk_rows; first < end; first += rows_at_once) {
      const int64_t row = first + thread_index() / b.row_threads;
      const int64_t from = row * b.n;
      const int n = row < end ? static_cast<int>(b.n) : 0;
      Words4 u[kHeld];
      Words4 dy[kHeld];
      Words4 dresidual[kHeld];
      Q4J_UNROLL
      for (int v = 0; v < kHeld; ++v) {
        const bool live = column(v) < n;
        u[v] = load_vector_if(live, static_cast<const T*>(b.u) + from + column(v));
        dy[v] = load_vector_if(live, static_cast<const T*>(b.dy) + from + column(v));
        dresidual[v] = load_vector_if(live && b.dresidual != nullptr, static_cast<const T*>(b.dresidual) + from + column(v));
      }
      const float mean = n > 0 ? b.mean[row] : 0.0f;
      const float rstd = n > 0 ? b.rstd[row] : 0.0f;
      float sums[2] = {0.0f, 0.0f};
      Q4J_UNROLL
      for (int v = 0; v < kHeld; ++v) {
        if (column(v) >= n) continue;
        float w[kN];
        load_floats(b.weight, b.weight_bf16, column(v), w);
        Q4J_UNROLL
        for (int i = 0; i < kN; ++i) {
          const float h = (element<T>(u[v], i) - mean) * rstd;
          const float d = element<T>(dy[v], i);
          sums[0] += d * w[i];
          sums[1] += d * w[i] * h;
          if constexpr (kSums) {
            dweight[v][i] += d * h;
            dbias[v][i] += d;
          }
        }
      }
      reduce(sums);
      const float mean_g = sums[0] / static_cast<float>(b.n);
      const float mean_gh = sums[1] / static_cast<float>(b.n);
      Q4J_UNROLL
      for (int v = 0; v < kHeld; ++v) {
        if (column(v) >= n) continue;
        float w[kN];
        load_floats(b.weight, b.weight_bf16, column(v), w);
        float dx[kN];
        Q4J_UNROLL
        for (int i = 0; i < kN; ++i) {
          const float g = multiply(element<T>(dy[v], i), w[i]);
          const float h = (element<T>(u[v], i) - mean) * rstd;
          dx[i] = rstd * (g - mean_g - h * mean_gh) + element<T>(dresidual[v], i);
        }
        store_vector(static_cast<T*>(b.dx) + from + column(v), dx);
      }
    }
    if constexpr (kSums) {
      if (b.weight_partial != nullptr)
        store_column_sums<T>(dweight, static_cast<int>(b.n), b.row_threads, b.weight_partial + chunk * b.partial_step);
      if (b.bias_partial != nullptr)
        store_column_sums<T>(dbias, static_cast<int>(b.n), b.row_threads, b.bias_partial + chunk * b.partial_step);
    }
  }
}

}  // namespace

q4j_status layer_norm_forward_2(const q4j_pack_context& context, const LayerNormForward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const RowThreads threads = row_threads(arguments.n, kHeld * kPerVector<T>, kMostRowThreads, kShortRowThreads);
    if (threads.row == 0 || arguments.n % kPerVector<T> != 0 ||
        !are_aligned({arguments.x, arguments.residual, arguments.weight, arguments.bias, arguments.sum, arguments.y})) {
      return layer_norm_forward_1(context, arguments);
    }
    LayerNormForward rows = arguments;
    rows.row_threads = threads.row;
    const Grid grid = {blocks_for(arguments.m, threads.rows_at_once()), threads.block};
    return launch(context, grid, "layer_norm_forward_2_rows", layer_norm_forward_2_rows<T>, rows);
  });
}

q4j_status layer_norm_backward_2(const q4j_pack_context& context, const LayerNormBackward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kPerThread = kHeld * kPerVector<T>;
    const RowThreads threads = row_threads(arguments.n, kPerThread, kMostRowThreads, kShortRowThreads);
    if (threads.row == 0 || arguments.n % kPerVector<T> != 0 ||
        !are_aligned({arguments.u, arguments.weight, arguments.dy, arguments.dresidual, arguments.dx})) {
      return layer_norm_backward_1(context, arguments);
    }
    LayerNormBackward rows = arguments;
    const RowThreads sums = row_threads(arguments.n, kPerThread, kMostSumThreads, kShortRowSumThreads);
    if (arguments.has_sums() && sums.row > 0) {
      rows.row_threads = sums.row;
      const Grid grid = {blocks_for(arguments.m, arguments.chunk_rows), sums.block};
      return launch(context, grid, "layer_norm_backward_2_rows", layer_norm_backward_2_rows<T, true>, rows);
    }
    rows.row_threads = threads.row;
    rows.chunk_rows = threads.rows_at_once();
    const Grid grid = {blocks_for(arguments.m, threads.rows_at_once()), threads.block};
    Q4J_RETURN_IF_ERROR(launch(context, grid, "layer_norm_backward_2_rows", layer_norm_backward_2_rows<T, false>, rows));
    return arguments.has_sums() ? layer_norm_sums_1(context, arguments) : Q4J_OK;
  });
}

}  // namespace q4j::cuda
