// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** What linear.cpp and lora.cpp share: weights and LoRA factors as the ABI says they are used, and sums in f64. */
#ifndef QLORA4J_REFERENCE_MATRIX_H_
#define QLORA4J_REFERENCE_MATRIX_H_

#include "philox.h"
#include "quant.h"
#include "reference.h"

namespace q4j::reference {

/** Sizes of a 4-bit weight's parts, and where pack_weight puts them. */
struct PackedParts {
  int64_t data_bytes;
  int64_t absmax_bytes;
  int64_t nested_bytes;
  int64_t absmax_at;
  int64_t nested_at;
  int64_t bytes;

  explicit PackedParts(const q4j_weight& weight) {
    const int64_t elements = weight.rows * weight.cols;
    const int64_t blocks = ceil_div(elements, weight.block_size);
    const bool nested = weight.nested_block_size != 0;
    data_bytes = ceil_div(elements, 2);
    absmax_bytes = blocks * (nested ? 1 : 4);
    nested_bytes = nested ? ceil_div(blocks, weight.nested_block_size) * 4 : 0;
    absmax_at = ceil_div(data_bytes, 64) * 64;
    nested_at = absmax_at + ceil_div(absmax_bytes, 64) * 64;
    bytes = nested_at + nested_bytes;
  }
};

/** The canonical form of a weight in either layout; copies nothing. */
static inline q4j_weight canonical(const q4j_weight& weight) {
  if (weight.layout != Q4J_LAYOUT_PACKED) return weight;
  const PackedParts parts(weight);
  const auto* packed = static_cast<const unsigned char*>(weight.data);
  q4j_weight result = weight;
  result.layout = Q4J_LAYOUT_CANONICAL;
  result.absmax = packed + parts.absmax_at;
  result.nested_absmax = weight.nested_block_size != 0 ? packed + parts.nested_at : nullptr;
  return result;
}

/**
 * Row `row` of W as it is multiplied: with bf16 activations every element is rounded once, to bf16; with f32 not at all. The
 * weight is canonical.
 */
static inline void load_weight_row(const q4j_weight& weight, int32_t compute_dtype, int64_t row, float* out) {
  if (weight.format == Q4J_WEIGHT_INT8) {
    const auto* codes = static_cast<const int8_t*>(weight.data) + row * weight.cols;
    const float absmax = static_cast<const float*>(weight.absmax)[row];
    for (int64_t c = 0; c < weight.cols; ++c) out[c] = static_cast<float>(codes[c]) * absmax * (1.0f / 127.0f);
  } else if (weight.format == Q4J_WEIGHT_FP8) {
    const auto* codes = static_cast<const e4m3*>(weight.data) + row * weight.cols;
    const float scale = static_cast<const float*>(weight.absmax)[row];
    for (int64_t c = 0; c < weight.cols; ++c) out[c] = to_f32(codes[c]) * scale;
  } else if (is_4bit(weight.format)) {
    const std::array<float, 16>& values = values_4bit(weight.format);
    const uint8_t* packed = static_cast<const uint8_t*>(weight.data);
    const int64_t first = row * weight.cols;
    int64_t block = -1;
    float absmax = 0.0f;
    for (int64_t c = 0; c < weight.cols; ++c) {
      const int64_t i = first + c;
      if (i / weight.block_size != block) {
        block = i / weight.block_size;
        absmax = dequantized_absmax(weight, block);
      }
      out[c] = values[nibble(packed, i)] * absmax;
    }
  } else {
    with_type(weight.dtype, [&](auto type) {
      const auto* data = static_cast<const decltype(type)*>(weight.data) + row * weight.ld;
      for (int64_t c = 0; c < weight.cols; ++c) out[c] = to_f32(data[c]);
    });
  }
  if (compute_dtype == Q4J_BF16) {
    for (int64_t c = 0; c < weight.cols; ++c) out[c] = round_to_bf16(out[c]);
  }
}

/** Widens rows of a matrix with leading dimension `ld` to contiguous f32. */
static inline void widen(const void* data, int32_t dtype, int64_t rows, int64_t cols, int64_t ld, float* out) {
  with_type(dtype, [&](auto type) {
    const auto* elements = static_cast<const decltype(type)*>(data);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) out[r * cols + c] = to_f32(elements[r * ld + c]);
    }
  });
}

/** Sum of products in f64, in four interleaved parts (element i goes to part i mod 4). */
static inline double dot(const float* a, const float* b, int64_t n) {
  double part[4] = {0.0, 0.0, 0.0, 0.0};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t j = 0; j < 4; ++j) part[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  }
  for (; i < n; ++i) part[i % 4] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (part[0] + part[1]) + (part[2] + part[3]);
}

/** sum[i] += factor * x[i], in f64. */
static inline void add_scaled(double* sum, double factor, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += factor * static_cast<double>(x[i]);
}

static inline bool has_branch(const q4j_lora* lora) { return lora != nullptr && lora->rank > 0; }

/** Whether a, b, xa and dyb are rounded to bf16. */
static inline bool rounds_to_bf16(const q4j_lora& lora, int32_t dtype) {
  return lora.compute == Q4J_LORA_FAST && dtype == Q4J_BF16;
}

/** Element of a or b as the branch uses it. */
static inline float lora_factor(const void* factor, int64_t index, bool rounds) {
  const float value = static_cast<const float*>(factor)[index];
  return rounds ? round_to_bf16(value) : value;
}

/**
 * Dropout of one row in place: dropped elements become 0. Kept ones stay as they are; their common factor 1 / (1 - p), which
 * dropout_factor returns, multiplies the sums, so that a bf16 x stays exact.
 */
static inline void mask_row(const q4j_dropout& dropout, int64_t row, int64_t columns, float* x) {
  if (dropout.probability <= 0.0f) return;
  const uint32_t threshold = dropout_threshold(dropout.probability);
  for (int64_t c = 0; c < columns; ++c) {
    if (!dropout_keeps(dropout, threshold, row, columns, c)) x[c] = 0.0f;
  }
}

static inline double dropout_factor(const q4j_dropout& dropout) {
  return dropout.probability <= 0.0f ? 1.0 : static_cast<double>(dropout_scale(dropout.probability));
}

}  // namespace q4j::reference

#endif  // QLORA4J_REFERENCE_MATRIX_H_
