// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Blockwise 8-bit with a dynamic map: the format of 8-bit optimizer states. */
#include <algorithm>

#include "cpu_operators.h"
#include "pack_context.h"
#include "quant.h"
#include "search_8bit.h"
#include "vec.h"

namespace q4j::cpu {

namespace {

/** Elements per piece of work, at least, in whole blocks. */
int64_t grain(int64_t block_size) { return std::max<int64_t>(1, 16384 / block_size) * block_size; }

}  // namespace

q4j_status quantize_8bit_blockwise(q4j_pack_context* context, const q4j_quantize_8bit_blockwise_params* params) {
  const q4j_quantize_8bit_blockwise_params& p = *params;
  const Search8Bit search((p.map == Q4J_MAP_DYNAMIC_UNSIGNED ? dynamic_unsigned_thresholds : dynamic_signed_thresholds).data());
  const float* input = static_cast<const float*>(p.input);
  uint8_t* codes = static_cast<uint8_t*>(p.codes);
  float* absmax = static_cast<float*>(p.absmax);
  context->pool.parallel_pieces(p.n, grain(p.block_size), [&](int64_t first, int64_t last, int) {
    for (int64_t begin = first; begin < last; begin += p.block_size) {
      const int64_t end = std::min<int64_t>(begin + p.block_size, last);
      Vec most = zero();
      for (int64_t i = begin; i < end; i += kLanes) most = max_magnitude(most, abs(load_first(input + i, end - i)));
      const float largest = reduce_max_magnitude(most);
      absmax[begin / p.block_size] = largest;
      search.store_block(input + begin, end - begin, 0.0f, largest, codes + begin);
    }
  });
  return Q4J_OK;
}

q4j_status dequantize_8bit_blockwise(q4j_pack_context* context, const q4j_dequantize_8bit_blockwise_params* params) {
  const q4j_dequantize_8bit_blockwise_params& p = *params;
  const float* map = (p.map == Q4J_MAP_DYNAMIC_UNSIGNED ? dynamic_unsigned_map : dynamic_signed_map).data();
  const uint8_t* codes = static_cast<const uint8_t*>(p.codes);
  const float* absmax = static_cast<const float*>(p.absmax);
  float* output = static_cast<float*>(p.output);
  context->pool.parallel_pieces(p.n, grain(p.block_size), [&](int64_t first, int64_t last, int) {
    for (int64_t begin = first; begin < last; begin += p.block_size) {
      const int64_t end = std::min<int64_t>(begin + p.block_size, last);
      const Vec scale = broadcast(absmax[begin / p.block_size]);
      for (int64_t i = begin; i < end; i += kLanes) {
        store_first(output + i, values_of(map, codes + i, end - i) * scale, end - i);
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::cpu
