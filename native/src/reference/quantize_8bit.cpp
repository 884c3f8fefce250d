// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Blockwise 8-bit with a dynamic map: the format of 8-bit optimizer states. */
#include <algorithm>

#include "quant.h"
#include "reference.h"

namespace q4j::reference {

q4j_status quantize_8bit_blockwise(q4j_pack_context*, const q4j_quantize_8bit_blockwise_params* p) {
  const auto& thresholds = p->map == Q4J_MAP_DYNAMIC_UNSIGNED ? dynamic_unsigned_thresholds : dynamic_signed_thresholds;
  const float* input = static_cast<const float*>(p->input);
  uint8_t* codes = static_cast<uint8_t*>(p->codes);
  float* absmax = static_cast<float*>(p->absmax);
  for (int64_t first = 0; first < p->n; first += p->block_size) {
    const int64_t last = std::min<int64_t>(first + p->block_size, p->n);
    float largest = 0.0f;
    for (int64_t i = first; i < last; ++i) largest = absmax_of(largest, input[i]);
    for (int64_t i = first; i < last; ++i) codes[i] = code_8bit_of_block(thresholds, input[i], largest);
    absmax[first / p->block_size] = largest;
  }
  return Q4J_OK;
}

q4j_status dequantize_8bit_blockwise(q4j_pack_context*, const q4j_dequantize_8bit_blockwise_params* p) {
  const auto& map = p->map == Q4J_MAP_DYNAMIC_UNSIGNED ? dynamic_unsigned_map : dynamic_signed_map;
  const uint8_t* codes = static_cast<const uint8_t*>(p->codes);
  const float* absmax = static_cast<const float*>(p->absmax);
  float* output = static_cast<float*>(p->output);
  for (int64_t i = 0; i < p->n; ++i) output[i] = map[codes[i]] * absmax[i / p->block_size];
  return Q4J_OK;
}

}  // namespace q4j::reference
