// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * dequantize_8bit_blockwise: output[i] = map[code] * absmax[i / block_size] in f32, the reference's bits.
 *
 * Launch contract
 *   codes      u8[n]; any alignment (8 bytes is fast)
 *   absmax     f32[ceil(n / block_size)]
 *   output     f32[n]; any alignment (16 bytes is fast)
 *   block_size 32 to 4096, a power of two
 *
 * Rungs
 *   1 one thread per element, the map in global memory.
 *   2 eight elements per thread, 8-byte loads and 16-byte stores, the map in shared memory.
 */
#include "pack/operators.h"
#include "support/codes.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;

Q4J_TABLE Table<float, 256> unsigned_map = table_of(dynamic_unsigned_map);

struct Dequantize8Bit {
  const uint8_t* codes;
  const float* absmax;
  float* output;
  int64_t n;
  int32_t block_shift; /* log2 of the block size */
  int32_t map;
};

Q4J_DEVICE const float* global_map(int map) { return map == Q4J_MAP_DYNAMIC_UNSIGNED ? unsigned_map.at : signed_map.at; }

Q4J_KERNEL(kThreads, 1) dequantize_8bit_blockwise_1_elements(const Dequantize8Bit d) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i < d.n) d.output[i] = multiply(global_map(d.map)[d.codes[i]], d.absmax[i >> d.block_shift]);
}

Q4J_KERNEL(kThreads, 4) dequantize_8bit_blockwise_2_eights(const Dequantize8Bit d) {
  auto& map = block_shared<Table<float, 256>>();
  map.at[thread_index()] = global_map(d.map)[thread_index()];
  block_barrier();
  const bool words = is_aligned(d.codes, sizeof(Words2));
  const bool vectors = is_aligned(d.output, sizeof(Words4));
  const int64_t step = static_cast<int64_t>(grid_blocks()) * kThreads * kEight;
  for (int64_t from = (static_cast<int64_t>(block_index()) * kThreads + thread_index()) * kEight; from < d.n; from += step) {
    const Words2 codes = load_eight_bytes(d.codes, from, d.n, words);
    const float absmax = load_read_only(d.absmax + (from >> d.block_shift));  // blocks are multiples of eight elements
    float value[kEight];
    Q4J_UNROLL
    for (int i = 0; i < kEight; ++i) value[i] = multiply(map.at[(codes.word[i / 4] >> (8 * (i % 4))) & 255u], absmax);
    store_eight(d.output, from, d.n, vectors, value);
  }
}

}  // namespace

q4j_status dequantize_8bit_blockwise(q4j_pack_context* context, const q4j_dequantize_8bit_blockwise_params* params) {
  Dequantize8Bit arguments = {};
  arguments.codes = static_cast<const uint8_t*>(params->codes);
  arguments.absmax = static_cast<const float*>(params->absmax);
  arguments.output = static_cast<float*>(params->output);
  arguments.n = params->n;
  arguments.block_shift = __builtin_ctz(static_cast<unsigned>(params->block_size));
  arguments.map = params->map;
  if (context->rungs.dequantize_8bit_blockwise == 1) {
    const Grid grid = {blocks_for(arguments.n, kThreads), kThreads};
    return launch(*context, grid, "dequantize_8bit_blockwise_1_elements", dequantize_8bit_blockwise_1_elements, arguments);
  }
  const auto kernel = dequantize_8bit_blockwise_2_eights;
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(*context, kThreads, "dequantize_8bit_blockwise_2_eights", kernel, &resident));
  const Grid grid = {blocks_for(arguments.n, kThreads * kEight, resident), kThreads};
  return launch(*context, grid, "dequantize_8bit_blockwise_2_eights", kernel, arguments);
}

}  // namespace q4j::cuda
