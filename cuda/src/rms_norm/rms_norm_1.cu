// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one block per row. */
#include "rms_norm/rms_norm.h"
#include "support/dispatch.h"
#include "support/launch.h"
#include "support/reduce.h"
#include "support/vectors.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

template <typename T>
Q4J_KERNEL(kThreads, 4)
rms_norm_forward_1_rows(const RmsNormForward f) {
  RowReduction<Sum, 1> reduce(kThreads);
  for (int64_t row = block_index(); row < f.m; row += grid_blocks()) {
    const T* x = static_cast<const T*>(f.x) + row * f.n;
    const T* residual = f.residual == nullptr ? nullptr : static_cast<const T*>(f.residual) + row * f.n;
    T* sum = f.sum == nullptr ? nullptr : static_cast<T*>(f.sum) + row * f.n;
    T* y = static_cast<T*>(f.y) + row * f.n;
    float squares[1] = {0.0f};
    for (int64_t j = thread_index(); j < f.n; j += kThreads) {
      const float u = residual == nullptr ? widen(x[j]) : rounded<T>(widen(x[j]) + widen(residual[j]));
      // u waits in y for its second use: x and residual may be overwritten by now.
      y[j] = narrow<T>(u);
      if (sum != nullptr) sum[j] = narrow<T>(u);
      squares[0] += u * u;
    }
    reduce(squares);
    const float rstd = divide(1.0f, square_root(squares[0] / static_cast<float>(f.n) + f.eps));
    if (f.rstd != nullptr && thread_index() == 0) f.rstd[row] = rstd;
    for (int64_t j = thread_index(); j < f.n; j += kThreads) {
      const float h = multiply(widen(y[j]), rstd);
      const float w = load_float(f.weight, f.weight_bf16, j);
      y[j] = narrow<T>(f.unit_offset ? (1.0f + w) * h : multiply(w, rounded<T>(h)));
    }
  }
}

template <typename T>
Q4J_KERNEL(kThreads, 4)
rms_norm_backward_1_rows(const RmsNormBackward b) {
  RowReduction<Sum, 1> reduce(kThreads);
  const float offset = b.unit_offset ? 1.0f : 0.0f;
  for (int64_t row = block_index(); row < b.m; row += grid_blocks()) {
    const T* u = static_cast<const T*>(b.u) + row * b.n;
    const T* dy = static_cast<const T*>(b.dy) + row * b.n;
    const T* dresidual = b.dresidual == nullptr ? nullptr : static_cast<const T*>(b.dresidual) + row * b.n;
    T* dx = static_cast<T*>(b.dx) + row * b.n;
    const float rstd = b.rstd[row];
    float projection[1] = {0.0f};
    for (int64_t j = thread_index(); j < b.n; j += kThreads) {
      const float g = widen(dy[j]) * (load_float(b.weight, b.weight_bf16, j) + offset);
      projection[0] += g * (widen(u[j]) * rstd);
    }
    reduce(projection);
    const float mean = projection[0] / static_cast<float>(b.n);
    for (int64_t j = thread_index(); j < b.n; j += kThreads) {
      const float g = widen(dy[j]) * (load_float(b.weight, b.weight_bf16, j) + offset);
      const float d = rstd * (g - widen(u[j]) * rstd * mean);
      dx[j] = narrow<T>(dresidual == nullptr ? d : d + widen(dresidual[j]));
    }
  }
}

/** One thread per column and chunk of rows. */
template <typename T>
Q4J_KERNEL(kThreads, 4)
rms_norm_backward_1_columns(const RmsNormBackward b) {
  const int64_t chunks = (b.m + b.chunk_rows - 1) / b.chunk_rows;
  const int64_t tiles = (b.n + kThreads - 1) / kThreads;
  for (int64_t item = block_index(); item < chunks * tiles; item += grid_blocks()) {
    const int64_t chunk = item / tiles;
    const int64_t column = (item - chunk * tiles) * kThreads + thread_index();
    if (column >= b.n) continue;
    const int64_t first = chunk * b.chunk_rows;
    const int64_t end = first + b.chunk_rows < b.m ? first + b.chunk_rows : b.m;
    float sum = 0.0f;
    for (int64_t row = first; row < end; ++row) {
      const float h = multiply(widen(static_cast<const T*>(b.u)[row * b.n + column]), b.rstd[row]);
      sum += widen(static_cast<const T*>(b.dy)[row * b.n + column]) * (b.unit_offset ? h : rounded<T>(h));
    }
    b.partial[chunk * b.n + column] = sum;
  }
}

}  // namespace

q4j_status rms_norm_forward_1(const q4j_pack_context& context, const RmsNormForward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const Grid grid = {blocks_for(arguments.m, 1), kThreads};
    return launch(context, grid, "rms_norm_forward_1_rows", rms_norm_forward_1_rows<T>, arguments);
  });
}

q4j_status rms_norm_backward_1(const q4j_pack_context& context, const RmsNormBackward& arguments) {
  Q4J_RETURN_IF_ERROR(with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const Grid grid = {blocks_for(arguments.m, 1), kThreads};
    return launch(context, grid, "rms_norm_backward_1_rows", rms_norm_backward_1_rows<T>, arguments);
  }));
  return arguments.partial == nullptr ? Q4J_OK : rms_norm_weight_sums_1(context, arguments);
}

q4j_status rms_norm_weight_sums_1(const q4j_pack_context& context, const RmsNormBackward& arguments) {
  return with_activation_type(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t chunks = (arguments.m + arguments.chunk_rows - 1) / arguments.chunk_rows;
    const int64_t tiles = (arguments.n + kThreads - 1) / kThreads;
    const Grid grid = {blocks_for(chunks * tiles, 1), kThreads};
    return launch(context, grid, "rms_norm_backward_1_columns", rms_norm_backward_1_columns<T>, arguments);
  });
}

}  // namespace q4j::cuda
