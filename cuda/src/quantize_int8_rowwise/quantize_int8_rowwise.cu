// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * quantize_int8_rowwise: rows to INT8 with one scale each, with LLM.int8's outlier columns.
 *
 * Launch contract
 *   input        T[rows, cols], T = f32, bf16 or f16; any alignment (16 bytes, also of every row, is fast)
 *   codes        i8[rows, cols]; any alignment (8 bytes, also of every row, is fast)
 *   row_absmax   f32[rows]: largest magnitude of the row's elements that are no outliers
 *   outlier_cols u8[cols], or NULL without a threshold; filled with 0 first, then 1 where a column holds an outlier
 * code = x * (127 / row_absmax), both rounded, to the nearest integer, half to even; 0 in outlier columns and where the scaled
 * element is not a number within +-127.5 (rows of zeros, NaN). The reference's bits.
 *
 * Rungs. With a threshold the codes wait for the outliers of all rows, so every rung then has a second launch for them.
 *   1 one thread per row, then one thread per element.
 *   2 one block per row, eight elements per thread and step; without a threshold the block codes its row at once.
 */
#include "pack/operators.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/int8.h"
#include "support/launch.h"
#include "support/row_maximum.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kStep = kThreads * kEight;

struct QuantizeInt8 {
  const void* input;
  uint8_t* codes;
  float* row_absmax;
  uint8_t* outlier_cols;
  int64_t rows;
  int64_t cols;
  float threshold; /* 0: no outliers */
};

Q4J_DEVICE bool is_outlier(const QuantizeInt8& q, float x) { return q.threshold > 0.0f && absolute(x) >= q.threshold; }

template <typename T>
Q4J_KERNEL(kThreads, 1)
quantize_int8_rowwise_1_rows(const QuantizeInt8 q) {
  const int64_t row = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (row >= q.rows) return;
  const T* input = static_cast<const T*>(q.input) + row * q.cols;
  float absmax = 0.0f;
  for (int64_t c = 0; c < q.cols; ++c) {
    const float x = widen(input[c]);
    if (is_outlier(q, x)) {
      q.outlier_cols[c] = 1;  // several threads may write it; all write the same
    } else {
      absmax = maximum(absmax, absolute(x));
    }
  }
  q.row_absmax[row] = absmax;
}

template <typename T>
Q4J_KERNEL(kThreads, 1)
quantize_int8_rowwise_1_codes(const QuantizeInt8 q) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= q.rows * q.cols) return;
  const int64_t row = i / q.cols;
  const float scale = int8_scale(q.row_absmax[row]);
  const bool zero = q.threshold > 0.0f && q.outlier_cols[i - row * q.cols] != 0;
  q.codes[i] = static_cast<uint8_t>(zero ? 0u : encode_int8(widen(static_cast<const T*>(q.input)[i]), scale));
}

/** Whether every row starts where wide accesses may. */
template <typename T>
Q4J_DEVICE bool wide_rows(const QuantizeInt8& q) {
  return is_aligned(q.input, sizeof(Words4)) &&
         q.cols * static_cast<int64_t>(sizeof(T)) % static_cast<int64_t>(sizeof(Words4)) == 0;
}

/** Codes of one row; with outliers, of the columns that hold none. */
template <typename T>
Q4J_DEVICE void encode_row(const QuantizeInt8& q, int64_t row, float absmax, bool vectors) {
  const T* input = static_cast<const T*>(q.input) + row * q.cols;
  uint8_t* codes = q.codes + row * q.cols;
  const bool words = is_aligned(q.codes, sizeof(Words2)) && q.cols % static_cast<int64_t>(sizeof(Words2)) == 0;
  const float scale = int8_scale(absmax);
  for (int64_t from = thread_index() * kEight; from < q.cols; from += kStep) {
    const Eight<T> eight = load_eight(input, from, q.cols, vectors);
    Words2 bytes = {{0u, 0u}};
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) {
      const bool zero = q.threshold > 0.0f && from + i < q.cols && q.outlier_cols[from + i] != 0;
      bytes.word[i / 4] |= (zero ? 0u : encode_int8(element(eight, i), scale)) << (8 * (i % 4));
    }
    store_eight_bytes(codes, from, q.cols, words, bytes);
  }
}

template <typename T>
Q4J_KERNEL(kThreads, 4)
quantize_int8_rowwise_2_rows(const QuantizeInt8 q) {
  const bool vectors = wide_rows<T>(q);
  for (int64_t row = block_index(); row < q.rows; row += grid_blocks()) {
    const T* input = static_cast<const T*>(q.input) + row * q.cols;
    float absmax = 0.0f;
    for (int64_t from = thread_index() * kEight; from < q.cols; from += kStep) {
      const Eight<T> eight = load_eight(input, from, q.cols, vectors);
      Q4J_UNROLL
      for (int i = 0; i < kEight; ++i) {
        const float x = element(eight, i);  // 0 beyond the row: never an outlier, never the maximum
        if (is_outlier(q, x)) {
          q.outlier_cols[from + i] = 1;  // several threads may write it; all write the same
        } else {
          absmax = maximum(absmax, absolute(x));
        }
      }
    }
    absmax = block_maximum<kThreads>(absmax);
    if (thread_index() == 0) q.row_absmax[row] = absmax;
    if (q.threshold == 0.0f) encode_row<T>(q, row, absmax, vectors);
  }
}

template <typename T>
Q4J_KERNEL(kThreads, 4)
quantize_int8_rowwise_2_codes(const QuantizeInt8 q) {
  const bool vectors = wide_rows<T>(q);
  for (int64_t row = block_index(); row < q.rows; row += grid_blocks()) encode_row<T>(q, row, q.row_absmax[row], vectors);
}

}  // namespace

q4j_status quantize_int8_rowwise(q4j_pack_context* context, const q4j_quantize_int8_rowwise_params* params) {
  QuantizeInt8 arguments = {};
  arguments.input = params->input;
  arguments.codes = static_cast<uint8_t*>(params->codes);
  arguments.row_absmax = static_cast<float*>(params->row_absmax);
  arguments.outlier_cols = static_cast<uint8_t*>(params->outlier_cols);
  arguments.rows = params->rows;
  arguments.cols = params->cols;
  arguments.threshold = params->outlier_threshold > 0.0f ? params->outlier_threshold : 0.0f;
  if (arguments.outlier_cols != nullptr) Q4J_RETURN_IF_ERROR(fill(context, arguments.outlier_cols, 0, arguments.cols));
  const bool simple = context->rungs.quantize_int8_rowwise == 1;
  return with_dtype(params->dtype, [&](auto type) {
    using T = decltype(type);
    if (simple) {
      const Grid rows = {blocks_for(arguments.rows, kThreads), kThreads};
      const q4j_status status =
          launch(*context, rows, "quantize_int8_rowwise_1_rows", quantize_int8_rowwise_1_rows<T>, arguments);
      if (status != Q4J_OK) return status;
      const Grid elements = {blocks_for(arguments.rows * arguments.cols, kThreads), kThreads};
      return launch(*context, elements, "quantize_int8_rowwise_1_codes", quantize_int8_rowwise_1_codes<T>, arguments);
    }
    const auto kernel = quantize_int8_rowwise_2_rows<T>;
    int resident = 0;
    q4j_status status = resident_blocks(*context, kThreads, "quantize_int8_rowwise_2_rows", kernel, &resident);
    const Grid grid = {blocks_for(arguments.rows, 1, resident), kThreads};
    if (status == Q4J_OK) status = launch(*context, grid, "quantize_int8_rowwise_2_rows", kernel, arguments);
    if (status != Q4J_OK || arguments.threshold == 0.0f) return status;
    return launch(*context, grid, "quantize_int8_rowwise_2_codes", quantize_int8_rowwise_2_codes<T>, arguments);
  });
}

}  // namespace q4j::cuda
