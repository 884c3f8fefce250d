// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/**
 * quantize_8bit_blockwise: f32 in blocks to codes of a dynamic map, the format of 8-bit optimizer states.
 *
 * Launch contract
 *   input      f32[n]; any alignment (16 bytes is fast)
 *   codes      u8[n]; any alignment (8 bytes is fast)
 *   absmax     f32[ceil(n / block_size)]
 *   block_size 32 to 4096, a power of two
 * code = exact nearest of x / absmax, ties to the lower index, as the reference pack; an all-zero block holds the code of 0.
 * Every output element is written; n = 0 launches nothing.
 *
 * Rungs
 *   1 one thread per block.
 *   2 one warp per block, eight elements per lane and step; the first 256 elements, all of a usual block, are read once.
 */
#include "pack/operators.h"
#include "quant.h"
#include "support/codes.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kStep = kWarp * kEight;

Q4J_TABLE Table<float, 255> signed_thresholds = table_of(dynamic_signed_thresholds);
Q4J_TABLE Table<float, 255> unsigned_thresholds = table_of(dynamic_unsigned_thresholds);

struct Quantize8Bit {
  const float* input;
  uint8_t* codes;
  float* absmax;
  int64_t n;
  int64_t blocks;
  int32_t block_size;
  int32_t map;
};

Q4J_DEVICE const float* global_thresholds(int map) {
  return map == Q4J_MAP_DYNAMIC_UNSIGNED ? unsigned_thresholds.at : signed_thresholds.at;
}

Q4J_DEVICE int64_t end_of_block(const Quantize8Bit& q, int64_t first) {
  return first + q.block_size < q.n ? first + q.block_size : q.n;
}

Q4J_KERNEL(kThreads, 1) quantize_8bit_blockwise_1_blocks(const Quantize8Bit q) {
  const int64_t block = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (block >= q.blocks) return;
  const float* thresholds = global_thresholds(q.map);
  const int64_t first = block * q.block_size;
  const int64_t last = end_of_block(q, first);
  float absmax = 0.0f;
  for (int64_t i = first; i < last; ++i) absmax = maximum(absmax, absolute(q.input[i]));
  for (int64_t i = first; i < last; ++i)
    q.codes[i] = static_cast<uint8_t>(encode_8bit_of_block(thresholds, q.input[i], absmax));
  q.absmax[block] = absmax;
}

Q4J_DEVICE float absmax_of_eight(const Eight<float>& eight) {
  float absmax = absolute(element(eight, 0));
  Q4J_UNROLL
  for (int i = 1; i < kEight; ++i) absmax = maximum(absmax, absolute(element(eight, i)));
  return absmax;
}

Q4J_DEVICE Words2 encode_eight(const float* thresholds, const Eight<float>& eight, float absmax) {
  Words2 codes = {{0u, 0u}};
  Q4J_UNROLL
  for (int i = 0; i < kEight; ++i)
    codes.word[i / 4] |= encode_8bit_of_block(thresholds, element(eight, i), absmax) << (8 * (i % 4));
  return codes;
}

Q4J_KERNEL(kThreads, 4) quantize_8bit_blockwise_2_warps(const Quantize8Bit q) {
  auto& thresholds = block_shared<Table<float, 255>>();
  if (thread_index() < 255) thresholds.at[thread_index()] = global_thresholds(q.map)[thread_index()];
  block_barrier();
  const bool vectors = is_aligned(q.input, sizeof(Words4));
  const bool words = is_aligned(q.codes, sizeof(Words2));
  const int64_t warps = static_cast<int64_t>(grid_blocks()) * kWarps;
  for (int64_t block = static_cast<int64_t>(block_index()) * kWarps + warp_index(); block < q.blocks; block += warps) {
    const int64_t first = block * q.block_size + lane_index() * kEight;
    const int64_t last = end_of_block(q, block * q.block_size);
    const Eight<float> kept = load_eight(q.input, first, last, vectors);
    float absmax = absmax_of_eight(kept);
    for (int64_t from = first + kStep; from < last; from += kStep) {
      absmax = maximum(absmax, absmax_of_eight(load_eight(q.input, from, last, vectors)));
    }
    Q4J_UNROLL
    for (int mask = kWarp / 2; mask > 0; mask /= 2) absmax = maximum(absmax, shuffle_xor(absmax, mask));
    if (first < last) store_eight_bytes(q.codes, first, last, words, encode_eight(thresholds.at, kept, absmax));
    Q4J_NO_UNROLL
    for (int64_t from = first + kStep; from < last; from += kStep) {
      const Eight<float> again = load_eight(q.input, from, last, vectors);
      store_eight_bytes(q.codes, from, last, words, encode_eight(thresholds.at, again, absmax));
    }
    if (lane_index() == 0) q.absmax[block] = absmax;
  }
}

}  // namespace

q4j_status quantize_8bit_blockwise(q4j_pack_context* context, const q4j_quantize_8bit_blockwise_params* params) {
  Quantize8Bit arguments = {};
  arguments.input = static_cast<const float*>(params->input);
  arguments.codes = static_cast<uint8_t*>(params->codes);
  arguments.absmax = static_cast<float*>(params->absmax);
  arguments.n = params->n;
  arguments.blocks = ceil_div(params->n, params->block_size);
  arguments.block_size = params->block_size;
  arguments.map = params->map;
  if (context->rungs.quantize_8bit_blockwise == 1) {
    const Grid grid = {blocks_for(arguments.blocks, kThreads), kThreads};
    return launch(*context, grid, "quantize_8bit_blockwise_1_blocks", quantize_8bit_blockwise_1_blocks, arguments);
  }
  const auto kernel = quantize_8bit_blockwise_2_warps;
  int resident = 0;
  Q4J_RETURN_IF_ERROR(resident_blocks(*context, kThreads, "quantize_8bit_blockwise_2_warps", kernel, &resident));
  const Grid grid = {blocks_for(arguments.blocks, kWarps, resident), kThreads};
  return launch(*context, grid, "quantize_8bit_blockwise_2_warps", kernel, arguments);
}

}  // namespace q4j::cuda
