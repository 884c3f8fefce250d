// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * quantize_fp8_rowwise: rows to FP8 E4M3 with one scale each. docs/kernels/fp8-rowwise.md has the format.
 *
 * Launch contract
 *   input      T[rows, cols], T = f32, bf16 or f16; any alignment (16 bytes, also of every row, is fast)
 *   codes      E4M3[rows, cols]; any alignment (8 bytes, also of every row, is fast)
 *   row_scale  f32[rows]: the row's largest magnitude / 448, correctly rounded
 * code = x / row_scale, correctly rounded, then to the nearest E4M3 value, half to even, saturating; 0x7f for NaN; 0 where
 * row_scale is 0. The reference's bits.
 *
 * Rungs
 *   1 one thread per row, then one thread per element.
 *   2 one block per row, eight elements per thread and step. The first 8192 columns (f32: 4096) stay in registers between the
 *     maximum and the codes; what lies beyond is read again. Divides by multiplying with the row's reciprocal (Divisor).
 */
#include "pack/operators.h"
#include "support/dispatch.h"
#include "support/e4m3.h"
#include "support/elements.h"
#include "support/launch.h"
#include "support/row_maximum.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kStep = kThreads * kEight;

struct QuantizeFp8 {
  const void* input;
  uint8_t* codes;
  float* row_scale;
  int64_t rows;
  int64_t cols;
};

template <typename T>
Q4J_KERNEL(kThreads, 1)
quantize_fp8_rowwise_1_rows(const QuantizeFp8 q) {
  const int64_t row = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (row >= q.rows) return;
  const T* input = static_cast<const T*>(q.input) + row * q.cols;
  float absmax = 0.0f;
  for (int64_t c = 0; c < q.cols; ++c) absmax = maximum(absmax, absolute(widen(input[c])));
  q.row_scale[row] = divide(absmax, kE4m3Largest);
}

template <typename T>
Q4J_KERNEL(kThreads, 1)
quantize_fp8_rowwise_1_codes(const QuantizeFp8 q) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= q.rows * q.cols) return;
  const float scale = q.row_scale[i / q.cols];
  const float scaled = scale == 0.0f ? 0.0f : divide(widen(static_cast<const T*>(q.input)[i]), scale);
  q.codes[i] = static_cast<uint8_t>(encode_e4m3(scaled));
}

/**
 * A row's scale as a divisor. Within 2^-80 to 2^100 a correctly rounded quotient takes one multiplication by the correctly
 * rounded reciprocal and two corrections, 5 operations where a division has about 10 and a branch: the first correction makes
 * the quotient faithful, after which the second one makes it exact (Markstein 1990). No step overflows there, and an element
 * small enough for its remainder to be rounded (below 2^-102) has a quotient below 2^-22 and code 0 either way.
 */
struct Divisor {
  float scale;
  float reciprocal;
  bool by_reciprocal;

  Q4J_DEVICE explicit Divisor(float row_scale)
      : scale(row_scale), reciprocal(divide(1.0f, row_scale)), by_reciprocal(row_scale >= 0x1p-80f && row_scale <= 0x1p100f) {}

  /** x / scale, by_reciprocal being true. The remainder is kept negated: that leaves a zero its sign. */
  Q4J_DEVICE float quotient(float x) const {
    float q = multiply(x, reciprocal);
    q = multiply_add(-multiply_add(scale, q, -x), reciprocal, q);
    return multiply_add(-multiply_add(scale, q, -x), reciprocal, q);
  }
};

template <typename T>
Q4J_DEVICE Words2 encode_eight(const Eight<T>& eight, const Divisor& divisor) {
  float scaled[kEight];
  if (divisor.by_reciprocal) {
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) scaled[i] = divisor.quotient(element(eight, i));
  } else {
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) scaled[i] = divisor.scale == 0.0f ? 0.0f : divide(element(eight, i), divisor.scale);
  }
  Words2 bytes;
  Q4J_UNROLL
  for (int w = 0; w < 2; ++w) {
    bytes.word[w] = encode_e4m3_pair(scaled[4 * w], scaled[4 * w + 1]) | encode_e4m3_pair(scaled[4 * w + 2], scaled[4 * w + 3])
                                                                             << 16;
  }
  return bytes;
}

template <typename T>
Q4J_KERNEL(kThreads, 4)
quantize_fp8_rowwise_2_rows(const QuantizeFp8 q) {
  constexpr int kHeld = 16 / (Eight<T>::kVectors * 4);  // 16 registers
  const bool vectors = is_aligned(q.input, sizeof(Words4)) &&
                       q.cols * static_cast<int64_t>(sizeof(T)) % static_cast<int64_t>(sizeof(Words4)) == 0;
  const bool words = is_aligned(q.codes, sizeof(Words2)) && q.cols % static_cast<int64_t>(sizeof(Words2)) == 0;
  const int64_t first = thread_index() * kEight;
  for (int64_t row = block_index(); row < q.rows; row += grid_blocks()) {
    const T* input = static_cast<const T*>(q.input) + row * q.cols;
    uint8_t* codes = q.codes + row * q.cols;
    Eight<T> held[kHeld];
    float absmax = 0.0f;
    Q4J_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      const int64_t from = first + h * kStep;
      if (from < q.cols) held[h] = load_eight(input, from, q.cols, vectors);
    }
    Q4J_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      if (first + h * kStep < q.cols) absmax = largest_of_eight(absmax, held[h]);
    }
    for (int64_t from = first + kHeld * kStep; from < q.cols; from += kStep) {
      absmax = largest_of_eight(absmax, load_eight(input, from, q.cols, vectors));
    }
    const float scale = divide(block_maximum<kThreads>(absmax), kE4m3Largest);
    if (thread_index() == 0) q.row_scale[row] = scale;
    const Divisor divisor(scale);
    Q4J_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      const int64_t from = first + h * kStep;
      if (from < q.cols) store_eight_bytes(codes, from, q.cols, words, encode_eight(held[h], divisor));
    }
    for (int64_t from = first + kHeld * kStep; from < q.cols; from += kStep) {
      store_eight_bytes(codes, from, q.cols, words, encode_eight(load_eight(input, from, q.cols, vectors), divisor));
    }
  }
}

}  // namespace

q4j_status quantize_fp8_rowwise(q4j_pack_context* context, const q4j_quantize_fp8_rowwise_params* params) {
  QuantizeFp8 arguments = {};
  arguments.input = params->input;
  arguments.codes = static_cast<uint8_t*>(params->codes);
  arguments.row_scale = static_cast<float*>(params->row_scale);
  arguments.rows = params->rows;
  arguments.cols = params->cols;
  const bool simple = context->rungs.quantize_fp8_rowwise == 1;
  return with_dtype(params->dtype, [&](auto type) {
    using T = decltype(type);
    if (simple) {
      const Grid rows = {blocks_for(arguments.rows, kThreads), kThreads};
      const q4j_status status =
          launch(*context, rows, "quantize_fp8_rowwise_1_rows", quantize_fp8_rowwise_1_rows<T>, arguments);
      if (status != Q4J_OK) return status;
      const Grid elements = {blocks_for(arguments.rows * arguments.cols, kThreads), kThreads};
      return launch(*context, elements, "quantize_fp8_rowwise_1_codes", quantize_fp8_rowwise_1_codes<T>, arguments);
    }
    const auto kernel = quantize_fp8_rowwise_2_rows<T>;
    int resident = 0;
    const q4j_status status = resident_blocks(*context, kThreads, "quantize_fp8_rowwise_2_rows", kernel, &resident);
    if (status != Q4J_OK) return status;
    const Grid grid = {blocks_for(arguments.rows, 1, resident), kThreads};
    return launch(*context, grid, "quantize_fp8_rowwise_2_rows", kernel, arguments);
  });
}

}  // namespace q4j::cuda
