// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** NF4 and FP4 in blocks over the row-major flattening, with and without double quantization of the block maxima. */
#include <algorithm>

#include "quant.h"
#include "reference.h"

namespace q4j::reference {

namespace {

// Codes of one block, two per byte. Blocks start at even elements, so a block never shares a byte with another.
template <typename T>
float quantize_block(int32_t format, const T* input, int64_t count, bool full, uint8_t* packed) {
  float absmax = 0.0f;
  for (int64_t i = 0; i < count; ++i) absmax = absmax_of(absmax, to_f32(input[i]));
  const float divisor = absmax < smallest_absmax ? smallest_absmax : absmax;
  // bitsandbytes multiplies full blocks by the reciprocal and divides the partial last block. Both round, differently.
  const float reciprocal = 1.0f / divisor;
  for (int64_t i = 0; i < count; i += 2) {
    unsigned byte = 0;
    for (int64_t j = i; j < i + 2; ++j) {
      const float x = j < count ? to_f32(input[j]) : 0.0f;
      const float scaled = full ? x * reciprocal : x / divisor;
      byte = byte << 4 | code_4bit(format, scaled);
    }
    packed[i / 2] = static_cast<uint8_t>(byte);
  }
  return full ? absmax : divisor;
}

// Codes absmax - offset with the signed dynamic map in blocks of `block_size` block maxima.
void quantize_absmax(const float* absmax, int64_t blocks, int64_t block_size, uint8_t* codes, float* nested_absmax,
                     float* nested_offset) {
  double sum = 0.0;
  for (int64_t b = 0; b < blocks; ++b) sum += static_cast<double>(absmax[b]);
  const float offset = blocks == 0 ? 0.0f : static_cast<float>(sum / static_cast<double>(blocks));
  *nested_offset = offset;
  for (int64_t first = 0; first < blocks; first += block_size) {
    const int64_t last = std::min(first + block_size, blocks);
    float largest = 0.0f;
    for (int64_t b = first; b < last; ++b) largest = absmax_of(largest, absmax[b] - offset);
    for (int64_t b = first; b < last; ++b)
      codes[b] = code_8bit_of_block(dynamic_signed_thresholds, absmax[b] - offset, largest);
    nested_absmax[first / block_size] = largest;
  }
}

}  // namespace

q4j_status quantize_4bit_workspace_size(q4j_pack_context*, const q4j_quantize_4bit_params* p, int64_t* bytes) {
  Scratch scratch(nullptr);
  if (p->nested_block_size > 0) scratch.take<float>(ceil_div(p->n, p->block_size));
  *bytes = scratch.used();
  return Q4J_OK;
}

q4j_status quantize_4bit(q4j_pack_context*, const q4j_quantize_4bit_params* p) {
  const bool nested = p->nested_block_size > 0;
  const int64_t blocks = ceil_div(p->n, p->block_size);
  Scratch scratch(p->workspace);
  float* absmax = nested ? scratch.take<float>(blocks) : static_cast<float*>(p->absmax);
  uint8_t* packed = static_cast<uint8_t*>(p->packed);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    const T* input = static_cast<const T*>(p->input);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * p->block_size;
      const int64_t count = std::min<int64_t>(p->block_size, p->n - first);
      absmax[b] = quantize_block(p->format, input + first, count, count == p->block_size, packed + first / 2);
    }
  });
  if (nested) {
    quantize_absmax(absmax, blocks, p->nested_block_size, static_cast<uint8_t*>(p->absmax),
                    static_cast<float*>(p->nested_absmax), static_cast<float*>(p->nested_offset));
  }
  return Q4J_OK;
}

q4j_status dequantize_4bit(q4j_pack_context*, const q4j_dequantize_4bit_params* p) {
  const q4j_weight& weight = *p->weight;
  const int64_t n = weight.rows * weight.cols;
  const std::array<float, 16>& values = values_4bit(weight.format);
  const uint8_t* packed = static_cast<const uint8_t*>(weight.data);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    T* output = static_cast<T*>(p->output);
    for (int64_t first = 0; first < n; first += weight.block_size) {
      const float absmax = dequantized_absmax(weight, first / weight.block_size);
      const int64_t last = std::min(first + weight.block_size, n);
      for (int64_t i = first; i < last; ++i) output[i] = from_f32<T>(values[nibble(packed, i)] * absmax);
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
