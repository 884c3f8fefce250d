// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * Row-wise INT8 (LLM.int8). With outliers two sweeps are needed, because a column is known to hold one only after its last row.
 */
#include <cmath>

#include "cpu_operators.h"
#include "error.h"
#include "norm.h"
#include "pack_context.h"
#include "rowwise_codes.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

/** The row's largest magnitude, outliers left out and their columns marked. */
template <class T>
float absmax_without_outliers(const T* x, int64_t n, float threshold, uint8_t* outlier_cols) {
  Vec most = zero();
  const Vec limit = broadcast(threshold);
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec magnitude = abs(load_first(x + i, n - i));
    const Mask outlier = magnitude >= limit;
    if (any(outlier)) {
      // Threads that mark the same column write the same value.
      for (int lane = 0; lane < kLanes; ++lane) {
        if (is_set(outlier, lane)) __atomic_store_n(outlier_cols + i + lane, uint8_t{1}, __ATOMIC_RELAXED);
      }
      magnitude = select(outlier, zero(), magnitude);
    }
    most = max_magnitude(magnitude, most);
  }
  return reduce_max_magnitude(most);
}

}  // namespace

q4j_status quantize_int8_rowwise(q4j_pack_context* context, const q4j_quantize_int8_rowwise_params* params) {
  const q4j_quantize_int8_rowwise_params& p = *params;
  uint8_t* outlier_cols = p.outlier_threshold > 0 ? static_cast<uint8_t*>(p.outlier_cols) : nullptr;
  if (p.outlier_cols != nullptr) std::memset(p.outlier_cols, 0, static_cast<size_t>(p.cols));
  float* absmax = static_cast<float*>(p.row_absmax);
  int8_t* codes = static_cast<int8_t*>(p.codes);
  const bool known = with_storage_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    const T* x = static_cast<const T*>(p.input);
    context->pool.parallel_pieces(p.rows, rows_per_piece(p.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const T* from = x + row * p.cols;
        if (outlier_cols == nullptr) {
          absmax[row] = row_absmax(from, p.cols);
          encode_row(from, p.cols, absmax[row], codes + row * p.cols);
        } else {
          absmax[row] = absmax_without_outliers(from, p.cols, p.outlier_threshold, outlier_cols);
        }
      }
    });
    if (outlier_cols == nullptr) return;
    context->pool.parallel_pieces(p.rows, rows_per_piece(p.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        int8_t* to = codes + row * p.cols;
        encode_row(x + row * p.cols, p.cols, absmax[row], to);
        for (int64_t k = 0; k < p.cols; ++k) {
          if (outlier_cols[k] != 0) to[k] = 0;
        }
      }
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "quantize_int8_rowwise: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

q4j_status dequantize_int8_rowwise(q4j_pack_context* context, const q4j_dequantize_int8_rowwise_params* params) {
  const q4j_dequantize_int8_rowwise_params& p = *params;
  const bool known = with_storage_type(p.dtype, [&](auto* tag) {
    using T = std::remove_pointer_t<decltype(tag)>;
    T* output = static_cast<T*>(p.output);
    const int8_t* codes = static_cast<const int8_t*>(p.codes);
    context->pool.parallel_pieces(p.rows, rows_per_piece(p.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const Vec absmax = broadcast(static_cast<const float*>(p.row_absmax)[row]);
        for (int64_t i = row * p.cols; i < (row + 1) * p.cols; i += kLanes) {
          const int64_t left = (row + 1) * p.cols - i;
          store_first(output + i, load_codes(codes + i, left) * absmax * broadcast(1.0f / 127.0f), left);
        }
      }
    });
  });
  Q4J_REQUIRE(known, Q4J_UNSUPPORTED, "dequantize_int8_rowwise: dtype %s", dtype_name(p.dtype));
  return Q4J_OK;
}

}  // namespace q4j::cpu
