// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Rung 1: the definition, one thread per block. Slow on purpose: a warp's loads are a block apart. */
#include "quantize_4bit/quantize_4bit.h"
#include "support/codes.h"
#include "support/dispatch.h"
#include "support/elements.h"
#include "support/launch.h"

namespace q4j::cuda {

namespace {

constexpr int kThreads = 128;

Q4J_TABLE Table<float, 15> nf4_thresholds = table_of(nf4_midpoints);
Q4J_TABLE Table<float, 15> fp4_thresholds = table_of(fp4_midpoints);
Q4J_TABLE Table<uint8_t, 16> fp4_codes = table_of(fp4_codes_by_value);
Q4J_TABLE Table<float, 255> map_thresholds = table_of(dynamic_signed_thresholds);

/** The number of thresholds below the value, as a code. */
template <int Format>
Q4J_DEVICE uint32_t count_thresholds(float scaled) {
  uint32_t rank = 0;
  for (int i = 0; i < 15; ++i) {
    rank += scaled > (Format == Q4J_WEIGHT_NF4 ? nf4_thresholds.at[i] : fp4_thresholds.at[i]) ? 1u : 0u;
  }
  return Format == Q4J_WEIGHT_NF4 ? rank : fp4_codes.at[rank];
}

Q4J_DEVICE int64_t global_thread() { return static_cast<int64_t>(block_index()) * block_threads() + thread_index(); }

template <typename T, int Format>
Q4J_KERNEL(kThreads, 1)
quantize_4bit_1_blocks(const Quantize4Bit q) {
  const int64_t block = global_thread();
  if (block >= q.blocks) return;
  const int64_t first = block * q.block_size;
  const bool full = first + q.block_size <= q.n;
  const int64_t last = full ? first + q.block_size : q.n;
  const T* input = static_cast<const T*>(q.input);
  float absmax = 0.0f;
  for (int64_t i = first; i < last; ++i) absmax = maximum(absmax, absolute(widen(input[i])));
  const float divisor = absmax < smallest_absmax ? smallest_absmax : absmax;
  const float reciprocal = divide(1.0f, divisor);
  for (int64_t i = first; i < last; i += 2) {
    uint32_t byte = 0;
    for (int64_t j = i; j < i + 2; ++j) {
      const float x = j < last ? widen(input[j]) : 0.0f;
      byte = byte << 4 | count_thresholds<Format>(full ? multiply(x, reciprocal) : divide(x, divisor));
    }
    q.packed[i / 2] = static_cast<uint8_t>(byte);
  }
  q.absmax[block] = full ? absmax : divisor;
}

/** One thread adds everything up from first to last, as the reference does. */
Q4J_KERNEL(kWarp, 1) quantize_4bit_1_offset(const Quantize4Bit q) {
  if (thread_index() != 0) return;
  double sum = 0.0;
  for (int64_t b = 0; b < q.blocks; ++b) sum += static_cast<double>(q.absmax[b]);
  *q.nested_offset = static_cast<float>(sum / static_cast<double>(q.blocks));
}

Q4J_KERNEL(kThreads, 1) quantize_4bit_1_absmax(const Quantize4Bit q) {
  const int64_t nested = global_thread();
  if (nested >= q.nested_blocks) return;
  const int64_t first = nested * q.nested_block_size;
  const int64_t last = first + q.nested_block_size < q.blocks ? first + q.nested_block_size : q.blocks;
  const float offset = *q.nested_offset;
  float largest = 0.0f;
  for (int64_t b = first; b < last; ++b) largest = maximum(largest, absolute(subtract(q.absmax[b], offset)));
  for (int64_t b = first; b < last; ++b) {
    q.absmax_codes[b] = static_cast<uint8_t>(encode_8bit_of_block(map_thresholds.at, subtract(q.absmax[b], offset), largest));
  }
  q.nested_absmax[nested] = largest;
}

}  // namespace

q4j_status quantize_4bit_1(const q4j_pack_context& context, const Quantize4Bit& arguments) {
  const Grid grid = {blocks_for(arguments.blocks, kThreads), kThreads};
  Q4J_RETURN_IF_ERROR(with_dtype(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    return with_format(arguments.format, [&](auto format) {
      return launch(context, grid, "quantize_4bit_1_blocks", quantize_4bit_1_blocks<T, decltype(format)::value>, arguments);
    });
  }));
  if (arguments.nested_block_size == 0) return Q4J_OK;
  Q4J_RETURN_IF_ERROR(launch(context, {1, kWarp}, "quantize_4bit_1_offset", quantize_4bit_1_offset, arguments));
  const Grid nested = {blocks_for(arguments.nested_blocks, kThreads), kThreads};
  return launch(context, nested, "quantize_4bit_1_absmax", quantize_4bit_1_absmax, arguments);
}

}  // namespace q4j::cuda
