// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * dequantize_fp8_rowwise: output = value * row_scale, rounded to f32, then to T: the reference's bits.
 *
 * Launch contract
 *   codes     E4M3[rows, cols]; any alignment (8 bytes, also of every row, is fast)
 *   row_scale f32[rows]
 *   output    T[rows, cols], T = f32, bf16 or f16; any alignment (16 bytes, also of every row, is fast)
 *
 * Rungs
 *   1 one thread per element.
 *   2 one block per row, eight elements per thread, 8-byte loads and 16-byte stores.
 */
#include "pack/operators.h"
#include "support/dispatch.h"
#include "support/e4m3.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kStep = kThreads * kEight;

struct DequantizeFp8 {
  const uint8_t* codes;
  const float* row_scale;
  void* output;
  int64_t rows;
  int64_t cols;
};

template <typename T>
Q4J_KERNEL(kThreads, 1)
dequantize_fp8_rowwise_1_elements(const DequantizeFp8 d) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= d.rows * d.cols) return;
  static_cast<T*>(d.output)[i] = narrow<T>(multiply(decode_e4m3(d.codes[i]), d.row_scale[i / d.cols]));
}

template <typename T>
Q4J_KERNEL(kThreads, 4)
dequantize_fp8_rowwise_2_rows(const DequantizeFp8 d) {
  const bool words = is_aligned(d.codes, sizeof(Words2)) && d.cols % static_cast<int64_t>(sizeof(Words2)) == 0;
  const bool vectors = is_aligned(d.output, sizeof(Words4)) &&
                       d.cols * static_cast<int64_t>(sizeof(T)) % static_cast<int64_t>(sizeof(Words4)) == 0;
  for (int64_t row = block_index(); row < d.rows; row += grid_blocks()) {
    const uint8_t* codes = d.codes + row * d.cols;
    T* output = static_cast<T*>(d.output) + row * d.cols;
    const float row_scale = load_read_only(d.row_scale + row);
    for (int64_t from = thread_index() * kEight; from < d.cols; from += kStep) {
      const Words2 bytes = load_eight_bytes(codes, from, d.cols, words);
      float value[kEight];
      Q4J_UNROLL
      for (int w = 0; w < 2; ++w) {
        float number[4];
        decode_e4m3_four(bytes.word[w], number);
        Q4J_UNROLL
        for (int i = 0; i < 4; ++i) value[4 * w + i] = multiply(number[i], row_scale);
      }
      store_eight(output, from, d.cols, vectors, value);
    }
  }
}

}  // namespace

q4j_status dequantize_fp8_rowwise(q4j_pack_context* context, const q4j_dequantize_fp8_rowwise_params* params) {
  DequantizeFp8 arguments = {};
  arguments.codes = static_cast<const uint8_t*>(params->codes);
  arguments.row_scale = static_cast<const float*>(params->row_scale);
  arguments.output = params->output;
  arguments.rows = params->rows;
  arguments.cols = params->cols;
  const bool simple = context->rungs.dequantize_fp8_rowwise == 1;
  return with_dtype(params->dtype, [&](auto type) {
    using T = decltype(type);
    if (simple) {
      const Grid grid = {blocks_for(arguments.rows * arguments.cols, kThreads), kThreads};
      return launch(*context, grid, "dequantize_fp8_rowwise_1_elements", dequantize_fp8_rowwise_1_elements<T>, arguments);
    }
    const auto kernel = dequantize_fp8_rowwise_2_rows<T>;
    int resident = 0;
    const q4j_status status = resident_blocks(*context, kThreads, "dequantize_fp8_rowwise_2_rows", kernel, &resident);
    if (status != Q4J_OK) return status;
    const Grid grid = {blocks_for(arguments.rows, 1, resident), kThreads};
    return launch(*context, grid, "dequantize_fp8_rowwise_2_rows", kernel, arguments);
  });
}

}  // namespace q4j::cuda
